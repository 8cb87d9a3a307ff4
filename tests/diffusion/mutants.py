"""Mistakes that the tests of medldm.diffusion and of the quantiser must notice, each made in a copy."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel  # noqa: F401  (as torch and scipy: imported before the forks, which share them)
import pytest
import scipy.fft  # noqa: F401
import torch  # noqa: F401

REPOSITORY = Path(__file__).resolve().parents[2]
UNCHANGED = "unchanged"
SLOW_TESTS = "diffusers"


@dataclass(frozen=True)
class Mutant:
    """One textual change of one source file.

    Args:
        name: what is wrong.
        module: file of the room without its suffix; its own test file must notice.
        old: text that occurs once.
        new: what takes its place.
        test: part of the names of the tests that must notice, where running the whole file would take long.
        room: folder in medldm that holds the file.
        noticed_by: module of the room whose test file must notice, where it is another one.
    """

    name: str
    module: str
    old: str
    new: str
    test: str = ""
    room: str = "diffusion"
    noticed_by: str = ""


MUTANTS = [
    Mutant("alpha_without_root", "schedules", "tuple(map(math.sqrt, signal))", "tuple(signal)"),
    Mutant("noise_without_root", "schedules", "tuple(map(math.sqrt, noise))", "tuple(noise)"),
    Mutant("v_with_flipped_sign", "kernel", ": (-sigma, alpha)", ": (sigma, -alpha)"),
    Mutant("velocity_with_flipped_sign", "kernel", ": (-one, one)", ": (one, -one)"),
    Mutant("x_0_from_the_wrong_row", "kernel", "_times(b / of_modes", "_times(a / of_modes"),
    Mutant("eps_from_the_wrong_row", "kernel", "_times(alpha / determinant", "_times(sigma / determinant"),
    Mutant("zero_determinant_accepted", "kernel", "determinant == 0", "determinant != determinant"),
    Mutant("posterior_sd_without_square", "kernel", "math.sqrt(1 - self.rho**2)", "math.sqrt(1 - self.rho)"),
    Mutant(
        "posterior_sd_of_the_wrong_time", "kernel", "self.sigma_s * math.sqrt", "self.sigma_t * math.sqrt"
    ),
    Mutant(
        "posterior_mean_without_square",
        "kernel",
        "self.alpha_s * (1 - self.rho**2)",
        "self.alpha_s * (1 - self.rho)",
    ),
    Mutant("cosine_capped_too_early", "schedules", "clamp(max=0.999)", "clamp(max=0.99)"),
    Mutant("cosine_without_square", "schedules", "* math.pi / 2) ** 2", "* math.pi / 2)"),
    Mutant("terminal_snr_not_zero", "schedules", "alpha = (alpha - alpha[-1]) *", "alpha = alpha *"),
    Mutant(
        "shift_the_wrong_way",
        "schedules",
        "shift * t / (1 + (shift - 1) * t)",
        "t / (shift - (shift - 1) * t)",
    ),
    Mutant("resolution_shift_without_root", "schedules", "math.sqrt(math.prod(size) /", "(math.prod(size) /"),
    Mutant("loss_weight_without_square", "loss", "(sigma / determinant) ** 2", "(sigma / determinant)"),
    Mutant("largest_snr_for_smallest", "loss", "snr.clamp(max=", "snr.clamp(min="),
    Mutant("network_time_off_by_one", "paths", "return t - 1", "return t"),
    Mutant("times_from_zero", "paths", "randint(1, self.n_timesteps + 1", "randint(0, self.n_timesteps"),
    Mutant("single_precision_table", "paths", "dtype=torch.float64, device=t.device", "device=t.device"),
    Mutant("flow_noise_with_root", "paths", "return 1.0 - t, 1.0 * t", "return 1.0 - t, math.sqrt(t)"),
    Mutant(
        "training_times_not_shifted",
        "paths",
        "return schedules.shift_time(t, self.shift)\n\n    def network",
        "return t\n\n    def network",
    ),
    Mutant(
        "times_cut_off",
        "time_grids",
        "path.snap_to_path([path.final_time,",
        "path.snap_to_path([path.final_time - 1e-3,",
    ),
    Mutant(
        "previous_time_is_t_minus_1",
        "time_grids",
        "path.step(t, s) for t, s in",
        "path.step(t, t - 1) for t, s in",
    ),
    Mutant("linspace_for_trailing", "time_grids", "((n - i) / n)", "((n - i) / (n + 1))"),
    Mutant("grid_not_shifted", "time_grids", "[path.shift_time(t) for t in", "[t for t in"),
    Mutant("karras_root", "time_grids", "-KARRAS_RHO * math.log(value)", "-math.log(value)"),
    Mutant(
        "ddpm_step_to_t_minus_1",
        "paths",
        "self.alpha_sigma(t), self.alpha_sigma(s)",
        "self.alpha_sigma(t), self.alpha_sigma(t - 1 if t > 1 else s)",
        test="respaced_ddpm_has",
        noticed_by="stochastic_solvers",
    ),
    Mutant(
        "ddpm_noise_variance_for_sd",
        "solvers",
        "x + step.posterior_sd * noise()",
        "x + step.posterior_sd**2 * noise()",
        test="respaced_ddpm_has",
        noticed_by="stochastic_solvers",
    ),
    Mutant(
        "noise_in_the_last_step",
        "solvers",
        "if step.posterior_sd > 0 else x",
        "if step.posterior_sd >= 0 else x",
        test="last_step",
        noticed_by="stochastic_solvers",
    ),
    Mutant(
        "latents_clipped",
        "solvers",
        "x = c_t * x + c_0 * x_0",
        "x = c_t * x + c_0 * x_0.clamp(-1, 1)",
        test="survive",
    ),
    Mutant(
        "ddim_eta_outside_the_square",
        "solvers",
        "step.sigma_s**2 - fresh**2",
        "step.sigma_s**2 - fresh**2 / eta",
        test="eta_keeps",
        noticed_by="stochastic_solvers",
    ),
    Mutant(
        "ddim_noise_not_reduced",
        "solvers",
        "step.sigma_s**2 - fresh**2",
        "step.sigma_s**2",
        test="eta_keeps",
        noticed_by="stochastic_solvers",
    ),
    Mutant(
        "multistep_factor",
        "solvers",
        "h / (2 * h_before)",
        "h / h_before",
        test="order_of_convergence",
    ),
    Mutant(
        "multistep_ratio_inverted",
        "solvers",
        "h / (2 * h_before)",
        "(h_before / (2 * h) if h_before < math.inf else 0.0)",
        test="uneven_steps",
    ),
    Mutant(
        "multistep_forgets",
        "solvers",
        "* (1 - step.rho) * d\n        x_0_before, h_before = x_0, step.h\n",
        "* (1 - step.rho) * d\n        h_before = step.h\n",
        test="order_of_convergence",
    ),
    Mutant(
        "stochastic_multistep_forgets",
        "solvers",
        "_draw_back(x, _extrapolate(x_0, x_0_before, step.h, h_before), step, noise)",
        "_draw_back(x, x_0, step, noise)",
        test="extrapolation_brings",
        noticed_by="stochastic_solvers",
    ),
    Mutant("sds_added", "kernel", "((alpha * spread) ** 2 + sigma**2) ** 0.5", "alpha * spread + sigma"),
    Mutant("edm_input_as_it_is", "kernel", "_times(1 / deviation(alpha, sigma, spread), x_t)", "x_t"),
    Mutant("edm_spread_forgotten", "kernel", "alpha * spread**2 / (unit", "alpha * spread / (unit"),
    Mutant("modes_in_their_own_units", "kernel", "flatten(-3).square().mean(-1)", "flatten(-3).mean(-1)"),
    Mutant(
        "modes_not_resized",
        "kernel",
        "return resize_modes(spread, tuple(x.shape[2:])) if",
        "return spread if",
    ),
    Mutant("modes_not_orthonormal", "modes", "rows[0] /= math.sqrt(2)", "rows[0] /= 2", noticed_by="kernel"),
    Mutant("modes_of_the_wrong_wavelength", "modes", "(grid * old)", "(grid * grid)", noticed_by="kernel"),
    Mutant(
        "channels_count_alike", "loss", "(channels / channels.mean())[None]", "(channels / channels)[None]"
    ),
    Mutant("heun_without_the_end", "solvers", "(eps + eps_end)", "(eps + eps)", test="order_of_convergence"),
    Mutant(
        "inversion_at_the_wrong_level",
        "solvers",
        "(x - step.sigma_s * eps) / step.alpha_s",
        "(x - step.sigma_t * eps) / step.alpha_t",
        test="inversion_undoes",
    ),
    Mutant("gaps_accepted", "solvers", "if before.s != after.t:", "if before.s < 0:", test="gaps"),
    Mutant("weight_off_by_one", "guidance", "weights[c] * (outputs[c] -", "(weights[c] + 1) * (outputs[c] -"),
    Mutant("rows_in_the_wrong_order", "guidance", ".repeat_interleave(", ".repeat("),
    Mutant("drop_means_keep", "guidance", "name not in group", "name in group"),
    Mutant("unweighted_conditions_dropped", "guidance", "tuple(group | unguided for", "tuple(group for"),
    Mutant("spread_inverted", "guidance", "y_c.std() / y.std()", "y.std() / y_c.std()"),
    Mutant("interval_closed_below", "guidance", "interval[0] < (sigma", "interval[0] <= (sigma"),
    Mutant(
        "conditional_pass_always_with_null",
        "guidance",
        "== 1 else [NULL, *guided]",
        "== 2 else [NULL, *guided]",
    ),
    Mutant(
        "codebook_average_skipped",
        "quantiser",
        "self._average(counts, sums, is_used)",
        "pass",
        room="networks",
    ),
    Mutant(
        "codebook_sums_without_memory",
        "quantiser",
        "self.sums.lerp_(sums, 1 - self.decay)",
        "self.sums.copy_(sums)",
        room="networks",
    ),
]
COPIED = ("diffusion", "networks", "runtime", "configs.py", "errors.py")
"""What the mutated modules import of the package."""


def copy_package(folder: Path, mutant: Mutant | None) -> None:
    """Write the rooms of the mutants alone, with the mutant's change if one is given, into an empty folder.

    Raises:
        ValueError: if the mutant's old text does not occur exactly once.
    """
    package = folder / "medldm"
    package.mkdir()
    for name in COPIED:
        source = REPOSITORY / "medldm" / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, package / name)
    (folder / "medldm" / "__init__.py").touch()
    if mutant is None:
        return
    source = package / mutant.room / f"{mutant.module}.py"
    text = source.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"mutant {mutant.name!r}: {mutant.old!r} occurs {text.count(mutant.old)} times in {source.name}, "
            "once is needed; adapt the mutant to the source"
        )
    source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_tests(folder: Path, mutant: Mutant | None) -> int:
    """Run the quick tests of the mutant's module (of all for None) against a copy, in a fork of this process.

    The fork shares the imported libraries, which would cost most of the time; it must not know medldm.

    Returns:
        pytest's exit status: 0 all passed, 1 a test failed.
    """
    copy_package(folder, mutant)
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        with (folder / "log.txt").open("w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            # The copy of medldm goes before the real one, which lies beside the tests.
            sys.path[:] = [str(folder), *sys.path, str(REPOSITORY)]
            files = {(one.room, one.noticed_by or one.module) for one in ([mutant] if mutant else MUTANTS)}
            tests = [str(REPOSITORY / "tests" / room / f"test_{module}.py") for room, module in sorted(files)]
            setup = str(REPOSITORY / "setup.cfg")
            options = ["-x", "-q", "--tb=line", "--assert=plain", "-p", "no:cacheprovider", "-c", setup]
            options += ["-k", f"{mutant.test if mutant else ''} and not ({SLOW_TESTS})".removeprefix(" and ")]
            status = int(pytest.main([*options, *tests]))
    finally:
        os._exit(status)


def main(folder: Path) -> None:
    """Run all mutants and the unchanged copy; write {name: exit status} to results.json in the folder."""
    results = {}
    # Else each fork visits, and so copies, all that was imported.
    gc.collect()
    gc.freeze()
    for mutant in [None, *MUTANTS]:
        name = mutant.name if mutant else UNCHANGED
        (folder / name).mkdir()
        results[name] = run_tests(folder / name, mutant)
    (folder / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
