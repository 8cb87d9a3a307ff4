"""Guidance: identities, composition and the one batch of all passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medldm.diffusion import DDPMPath, FlowPath, guided_denoiser
from medldm.diffusion.guidance import (
    NULL,
    Group,
    Passes,
    Predict,
    combine,
    drop_masks,
    needed_passes,
    read_weights,
    rescale,
    run_passes,
)

PATH = DDPMPath()
SHAPE = (3, 2, 4, 3, 5)
CONDITIONS = ("label_map", "class", "age")
ALL = frozenset(CONDITIONS)


class Network:
    """An elementwise toy whose output depends on which conditions are in place; remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    def __call__(self, x: Tensor, times: Tensor, passes: Passes) -> Tensor:
        drop = drop_masks(passes, CONDITIONS, batch_size=len(x) // len(passes), device=x.device)
        self.calls.append((x, times, drop))
        output = 0.5 * x
        for i, name in enumerate(CONDITIONS, start=1):
            in_place = (~drop[name]).to(x).view(-1, 1, 1, 1, 1)
            output = output + in_place * (0.3 * i + 0.1 * (i * x).cos())
        return output + 1e-4 * times.to(x).view(-1, 1, 1, 1, 1)

    def alone(self, x: Tensor, t: float, group: frozenset[str]) -> Tensor:
        """The output with these conditions in place, in a batch of its own."""
        return Network()(x, torch.full((len(x),), float(t - 1)), (group,))

    def passes(self) -> list[frozenset[str]]:
        """Conditions in place in each pass of the last call."""
        _, _, drop = self.calls[-1]
        rows = range(0, len(self.calls[-1][0]), SHAPE[0])
        return [frozenset(name for name in CONDITIONS if not drop[name][row]) for row in rows]


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    """Noisy latents."""
    return torch.randn(SHAPE, generator=generator, dtype=torch.float64)


def guided_output(x: Tensor, t: int, weights: Any, **options: Any) -> tuple[Tensor, Network]:
    """The guided network output, read off the estimate of x_0."""
    network = Network()
    denoise = guided_denoiser(
        network, weights, path=PATH, prediction_type="sample", conditions=CONDITIONS, **options
    )
    return denoise(x, t)[0], network


def test_weight_one_is_the_conditional_network_and_runs_it_alone(x: Tensor) -> None:
    found, network = guided_output(x, 500, 1.0)
    torch.testing.assert_close(found, network.alone(x, 500, ALL), rtol=1e-12, atol=1e-12)
    assert network.passes() == [ALL]
    outputs = {ALL: x, NULL: 3 * x}
    assert torch.equal(combine(outputs, {ALL: 1.0}), x)


def test_weight_zero_is_the_unconditional_network_and_runs_it_alone(x: Tensor) -> None:
    found, network = guided_output(x, 500, 0.0)
    torch.testing.assert_close(found, network.alone(x, 500, NULL), rtol=1e-12, atol=1e-12)
    assert network.passes() == [NULL]
    assert torch.equal(combine({NULL: x}, {ALL: 0.0}), x)


@pytest.mark.parametrize("weight", [-1.0, 0.5, 2.0, 7.5])
def test_single_weight_is_classifier_free_guidance(weight: float, x: Tensor) -> None:
    found, network = guided_output(x, 500, weight)
    conditional, unconditional = network.alone(x, 500, ALL), network.alone(x, 500, NULL)
    expected = unconditional + weight * (conditional - unconditional)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert network.passes() == [NULL, ALL]
    assert len(network.calls) == 1


def test_guidance_is_linear_in_the_weight(x: Tensor) -> None:
    at = {weight: guided_output(x, 300, weight)[0] for weight in (0.0, 1.0, 2.0, 5.0, -3.0)}
    for weight, output in at.items():
        expected = (1 - weight) * at[0.0] + weight * at[1.0]
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


def test_weights_of_single_conditions_add_up(x: Tensor) -> None:
    weights = {"label_map": 2.0, "class": 3.0, "age": -1.0}
    found, network = guided_output(x, 500, weights)
    base = network.alone(x, 500, NULL)
    expected = base + sum(
        w * (network.alone(x, 500, frozenset({name})) - base) for name, w in weights.items()
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert network.passes() == [NULL, *(frozenset({name}) for name in weights)]


def test_weights_that_sum_to_one_need_no_unconditional_pass(x: Tensor) -> None:
    found, network = guided_output(x, 500, {"label_map": 0.25, "class": 0.75, "age": 0.0})
    parts = [network.alone(x, 500, frozenset({name})) for name in ("label_map", "class")]
    torch.testing.assert_close(found, 0.25 * parts[0] + 0.75 * parts[1], rtol=1e-12, atol=1e-12)
    assert NULL not in network.passes()


def test_conditions_without_a_weight_stay_in_every_pass(x: Tensor) -> None:
    found, network = guided_output(x, 500, {"class": 4.0})
    kept = frozenset({"label_map", "age"})
    assert network.passes() == [kept, ALL]
    base = network.alone(x, 500, kept)
    expected = base + 4.0 * (network.alone(x, 500, ALL) - base)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_groups_are_guided_together(x: Tensor) -> None:
    found, network = guided_output(x, 500, {"class+age": 2.0, "label_map": 1.5})
    assert network.passes() == [NULL, frozenset({"class", "age"}), frozenset({"label_map"})]
    base = network.alone(x, 500, NULL)
    pair, single = (network.alone(x, 500, group) for group in network.passes()[1:])
    torch.testing.assert_close(
        found, base + 2 * (pair - base) + 1.5 * (single - base), rtol=1e-12, atol=1e-12
    )


def run(predict: Predict, x: Tensor, passes: list[Group]) -> dict[Group, Tensor]:
    return run_passes(predict, x, 499.0, passes=tuple(passes))


def test_the_passes_of_steps_are_equal_values(x: Tensor) -> None:
    """So that what follows from them can be kept under their value."""
    network = Network()
    seen: list[Passes] = []

    def predict(x: Tensor, times: Tensor, passes: Passes) -> Tensor:
        seen.append(passes)
        return network(x, times, passes)

    level = PATH.alpha_sigma(500)[1] / PATH.alpha_sigma(500)[0]
    denoise = guided_denoiser(
        predict,
        3.0,
        path=PATH,
        prediction_type="epsilon",
        conditions=CONDITIONS,
        interval=(level, math.inf),
    )
    for t in (700, 600, 300):
        denoise(x, t)
    assert {passes: seen.count(passes) for passes in seen} == {(NULL, ALL): 2, (ALL,): 1}


def test_one_batch_equals_separate_passes_in_single_precision(x: Tensor) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv3d(5, 2, 3, padding=1)

    def predict(x: Tensor, times: Tensor, passes: Passes) -> Tensor:
        drop = drop_masks(passes, CONDITIONS, batch_size=len(x) // len(passes), device=x.device)
        flags = [(~drop[name]).to(x).view(-1, 1, 1, 1, 1).expand(-1, 1, *x.shape[2:]) for name in CONDITIONS]
        return layer(torch.cat([x, *flags], dim=1)) + times.view(-1, 1, 1, 1, 1) / 1000

    passes = [NULL, ALL, frozenset({"age"})]
    with torch.no_grad():
        together = run(predict, x.float(), passes)
        for group in passes:
            alone = run(predict, x.float(), [group])
            torch.testing.assert_close(together[group], alone[group], rtol=0, atol=1e-5)


def test_rows_of_the_batch_are_samples_within_passes(x: Tensor) -> None:
    _, network = guided_output(x, 500, 3.0)
    rows, times, drop = network.calls[0]
    assert torch.equal(rows, torch.cat([x, x]))
    assert times.tolist() == [499.0] * 6
    assert all(drop[name].tolist() == [True] * 3 + [False] * 3 for name in CONDITIONS)
    assert all(drop[name].dtype == torch.bool for name in CONDITIONS)


def test_interval_guides_only_inside(x: Tensor) -> None:
    levels = {t: PATH.alpha_sigma(t)[1] / PATH.alpha_sigma(t)[0] for t in (200, 500, 800)}
    for t, is_guided in ((200, False), (500, True), (800, False)):
        found, network = guided_output(x, t, 3.0, interval=(levels[200], levels[500]))
        assert network.passes() == ([NULL, ALL] if is_guided else [ALL])
        expected = guided_output(x, t, 3.0 if is_guided else 1.0)[0]
        assert torch.equal(found, expected)


def test_default_interval_holds_all_noise_levels(x: Tensor) -> None:
    network = Network()
    for path in (FlowPath(), DDPMPath(zero_terminal_snr=True)):
        denoise = guided_denoiser(network, 3.0, path=path, prediction_type="velocity", conditions=CONDITIONS)
        for t in (path.final_time, path.first_time):
            denoise(x, t)
            assert network.passes() == [NULL, ALL]
    no_pure_noise = guided_denoiser(
        network, 3.0, path=path, prediction_type="velocity", conditions=CONDITIONS, interval=(0.0, 1e6)
    )
    no_pure_noise(x, path.final_time)
    assert network.passes() == [ALL]


def test_outside_the_interval_single_weights_give_way_to_all_conditions(x: Tensor) -> None:
    _, network = guided_output(x, 500, {"class": 2.0, "age": 3.0}, interval=(1e6, math.inf))
    assert network.passes() == [ALL]


def test_rescaling_restores_the_spread_of_the_conditional_output(x: Tensor) -> None:
    conditional = guided_output(x, 500, 1.0)[0]
    plain = guided_output(x, 500, 6.0)[0]
    full = guided_output(x, 500, 6.0, rescale_amount=1.0)[0]
    half = guided_output(x, 500, 6.0, rescale_amount=0.5)[0]
    for sample in range(SHAPE[0]):
        assert float(full[sample].std()) == pytest.approx(float(conditional[sample].std()), rel=1e-12)
        ratio = conditional[sample].std() / plain[sample].std()
        torch.testing.assert_close(full[sample], plain[sample] * ratio, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(half, (plain + full) / 2, rtol=1e-12, atol=1e-12)
    assert torch.equal(rescale(plain, conditional, 0.0), plain)
    assert torch.equal(guided_output(x, 500, 1.0, rescale_amount=0.7)[0], conditional)


def test_rescaling_of_several_weights_is_to_the_output_with_all_conditions(x: Tensor) -> None:
    found, network = guided_output(x, 500, {"class": 4.0, "age": 4.0}, rescale_amount=1.0)
    assert network.passes()[-1] == ALL
    conditional = network.alone(x, 500, ALL)
    for sample in range(SHAPE[0]):
        assert float(found[sample].std()) == pytest.approx(float(conditional[sample].std()), rel=1e-10)


def test_guided_estimates_explain_the_noisy_latents(x: Tensor) -> None:
    denoise = guided_denoiser(Network(), 5.0, path=PATH, prediction_type="epsilon", conditions=CONDITIONS)
    x_0, eps = denoise(x, 700)
    alpha, sigma = PATH.alpha_sigma(700)
    torch.testing.assert_close(alpha * x_0 + sigma * eps, x, rtol=1e-12, atol=1e-12)


def test_without_conditions_the_plain_network_is_asked_once(x: Tensor) -> None:
    calls: list[int] = []

    def predict(x: Tensor, times: Tensor, passes: Passes) -> Tensor:
        calls.append(len(x))
        assert passes == (NULL,)
        return x

    for weight in (0.0, 1.0, 4.0):
        guided_denoiser(predict, weight, path=PATH, prediction_type="sample")(x, 10)
    assert calls == [SHAPE[0]] * 3


def test_needed_passes_are_those_with_a_factor() -> None:
    a, b = frozenset({"a"}), frozenset({"b"})
    assert needed_passes({a: 2.0, b: 0.0}) == [NULL, a]
    assert needed_passes({a: 0.0}) == [NULL]
    assert needed_passes({a: 1.0, b: 0.0}) == [a]
    assert needed_passes({a: 1.0, b: 1.0}) == [NULL, a, b]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"sex": 2.0}}, r"guidance weight for \['sex'\]: the conditions given are"),
        ({"weights": {"class+sex": 2.0}}, r"guidance weight for \['sex'\]"),
        ({"weights": math.nan}, "guidance weight of .* is nan"),
        ({"interval": (3.0, 1.0)}, r"guidance interval is \(3.0, 1.0\)"),
        ({"rescale_amount": 1.5}, "rescale_amount is 1.5"),
        ({"prediction_type": "noise"}, "prediction_type is 'noise'"),
        ({"path": FlowPath(), "prediction_type": "epsilon"}, "'epsilon' does not determine"),
    ],
)
def test_bad_guidance_is_refused_before_the_first_step(options: dict[str, Any], message: str) -> None:
    arguments = {"path": PATH, "prediction_type": "sample", "conditions": CONDITIONS, **options}
    weights = arguments.pop("weights", 1.0)
    with pytest.raises(ValueError, match=message):
        guided_denoiser(Network(), weights, **arguments)


def test_weights_are_read_as_groups() -> None:
    assert read_weights(2.0, CONDITIONS) == {ALL: 2.0}
    assert read_weights(2.0, ()) == {NULL: 2.0}
    assert read_weights({"age+class": 2}, CONDITIONS) == {frozenset({"age", "class"}): 2.0}
