"""Hostile checkpoints, volumes and names: nothing is unpickled, allocated or written outside."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from medldm.conditioning import open_text_encoder
from medldm.data.preparation.prepare import PrepareOptions, prepare
from medldm.editing.request import EditRequest
from medldm.latent_diffusion.checkpoints import CARD_KEY, hash_weights, load_checkpoint
from medldm.latent_diffusion.foreign_weights import read_foreign_weights
from medldm.latent_diffusion.model_files import load_autoencoder, load_latent_diffusion
from medldm.training import CheckpointWriter
from medldm.training.losses.perceptual import MedicalNetLoss
from medldm.training.resume.state_folders import StateFolders
from medldm.transforms import LoadVolume
from medldm.transforms.numpy_format import read_npy
from tests.bundle_sandbox.test_hostile_configs import Seen
from tests.bundle_sandbox.watcher import watch_all
from tests.transforms.itk_files import metaimage, nrrd, packed_metaimage

Job = Callable[[Path], object]


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch MARK",)


def pickled() -> bytes:
    return pickle.dumps({"state_dict": Payload()})


def torch_archive() -> bytes:
    file = io.BytesIO()
    torch.save({"weights": torch.zeros(2), "extra": Payload()}, file)
    return file.getvalue()


def zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(2**25))
    return file.getvalue()


def stored_archive(*entries: tuple[str, bytes], size: int | None = None) -> bytes:
    """An archive as torch.save writes it; `size` is what its directory claims of the last entry."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(f"archive/{name}", content)
        if size is not None:
            archive.filelist[-1].file_size = size
    return file.getvalue()


def called(name: str, argument: Any) -> bytes:
    """A pickle that calls a name of torch's restricted loader, or any other, with one argument."""
    module, _, own = name.rpartition(".")
    packed = pickle.dumps(argument, protocol=2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{own}\n".encode() + packed + b"\x85R."


def plain_archive(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def import_job(content: bytes, name: str = "model.pt") -> Job:
    """Read a file as `medldm import-weights` does."""
    return file_job(content, read_foreign_weights, name)


def tensor_entry(shape: list[int], offsets: list[int]) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": offsets}


def raw(header: str, data: bytes = b"", length: int | None = None) -> bytes:
    text = header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def with_card(card: Any, weights: dict[str, torch.Tensor] | None = None) -> bytes:
    own = {"a": torch.zeros(2)} if weights is None else weights
    if isinstance(card, dict):
        card = {"format": 1, "weights_sha256": hash_weights(own), **card}
    return save(own, metadata={CARD_KEY: card if isinstance(card, str) else json.dumps(card)})


def autoencoder_card(**config: Any) -> dict[str, Any]:
    return {"kind": "autoencoder", "space": None, "autoencoder": {"type": "vae", "config": config}}


def latent_card(
    *, unet: dict[str, Any] | None = None, space: dict[str, Any] | None = None, **diffusion: Any
) -> bytes:
    card = autoencoder_card() | {"kind": "latent_diffusion", "conditioning": {}, "space": space}
    path = {"noise_path": {"kind": "ddpm"}} if "n_timesteps" not in diffusion else {}
    described = {"unet": unet or {}, "diffusion": {"prediction_type": "epsilon", **path, **diffusion}}
    return with_card(card | described)


def volume_job(name: str, content: bytes) -> Job:
    """Load a volume; what a header may want to read lies beside the cohort."""

    def run(folder: Path) -> None:
        (folder / name).write_bytes(content)
        LoadVolume()(folder / name)

    return run


def file_job(content: bytes, load: Callable[[Path], object], name: str = "model.safetensors") -> Job:
    def run(folder: Path) -> None:
        (folder / name).write_bytes(content)
        load(folder / name)

    return run


def state_job(spoil: Callable[[Path], None]) -> Job:
    def run(folder: Path) -> None:
        states = StateFolders(folder / "state")
        spoil(states.save({"network": {"a": torch.zeros(3)}}, step=1))
        states.load_newest()

    return run


def spoil_manifest(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../../outside.safetensors"] = manifest["files"].pop("network.safetensors")
    (path / "manifest.json").write_text(json.dumps(manifest))


def spoil_link(path: Path) -> None:
    (path / "network.safetensors").rename(path.parents[2] / "elsewhere.safetensors")
    (path / "network.safetensors").symlink_to(path.parents[2] / "elsewhere.safetensors")


def nifti_bomb() -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 32767, 32767, 32767, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 16, 32)
    struct.pack_into("<8f", header, 76, *[1.0] * 8)
    struct.pack_into("<f", header, 108, 352.0)
    header[344:348] = b"n+1\0"
    return gzip.compress(bytes(header) + bytes(2**22))


def object_array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    return file.getvalue()


def text_encoder_job(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "planted.Model"}}')
    (folder / "pytorch_model.bin").write_bytes(torch_archive())
    (folder / "planted.py").write_text("raise SystemExit")
    open_text_encoder(str(folder))


def prepare_job(subject: str) -> Job:
    def run(folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "table.csv").write_text(f'source,subject\na.npy,"{subject}"\n')
        np.save(folder / "in" / "a.npy", np.ones((4, 4, 4), dtype=np.float32))
        options = PrepareOptions(key_file=folder / "key", spacing_mm=(1.0, 1.0, 1.0), workers=1)
        prepare(folder / "in", folder / "out", table=folder / "table.csv", options=options)

    return run


def prepare_link_job(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    (folder / "out" / "images").symlink_to(folder.parent)
    prepare(folder / "in", folder / "out", options=PrepareOptions(key_file=folder / "key", workers=1))


def checkpoint_name_job(folder: Path) -> None:
    CheckpointWriter(folder, name="../../x", describe=dict, evaluator=None, metric="a", larger_is_better=True)


IMPORTS: dict[str, Job] = {
    "import_pickle": import_job(pickled()),
    "import_torch_archive": import_job(torch_archive()),
    "import_torch_archive_renamed": import_job(torch_archive(), "model.safetensors"),
    "import_old_torch_file": import_job(pickle.dumps(0x1950A86A20F9469CFC6C) + pickled()),
    "import_zip_bomb": import_job(zip_bomb()),
    "import_archive_that_claims_more": import_job(stored_archive(("data.pkl", pickled()), size=2**40)),
    "import_archive_without_pickle": import_job(stored_archive(("data/0", bytes(8)))),
    "import_archive_of_two_pickles": import_job(
        stored_archive(("data.pkl", b"\x80\x02N."), ("b/data.pkl", pickled()))
    ),
    "import_archive_cut_off": import_job(plain_archive({"a": torch.zeros(999)})[:-400]),
    "import_pickle_cut_off": import_job(stored_archive(("data.pkl", b"\x80\x02ccollections\n"))),
    "import_allocating": import_job(stored_archive(("data.pkl", called("builtins.bytearray", 2**40)))),
    "import_allocating_a_tensor": import_job(stored_archive(("data.pkl", called("torch.Tensor", 2**40)))),
    "import_system": import_job(stored_archive(("data.pkl", called("os.system", "touch MARK")))),
    "import_by_stack_global": import_job(stored_archive(("data.pkl", pickle.dumps(Payload(), protocol=4)))),
    "import_expanded_tensor": import_job(plain_archive({"a": torch.zeros(1).expand(2**40)})),
    "import_sparse_tensor": import_job(
        stored_archive(("data.pkl", called("torch._utils._rebuild_sparse_tensor", 1)))
    ),
    "import_huge_safetensors": import_job(
        raw(json.dumps({"a": tensor_entry([2**40], [0, 2**42])}), bytes(8)), "model.safetensors"
    ),
}

OVERLAPPING = {"a": tensor_entry([2], [0, 8]), "b": tensor_entry([2], [4, 12])}
DOUBLED = (
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    '"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
)

FILES: dict[str, Job] = {
    "pickle_renamed": file_job(pickled(), load_checkpoint),
    "pickle_as_pt": file_job(pickled(), load_checkpoint, "model.pt"),
    "pickle_for_a_model": file_job(pickled(), load_latent_diffusion),
    "torch_archive": file_job(torch_archive(), load_autoencoder, "model.pt"),
    "torch_archive_renamed": file_job(torch_archive(), load_latent_diffusion),
    "zip_bomb": file_job(zip_bomb(), load_checkpoint),
    "header_of_2_to_60_bytes": file_job(raw("{}", length=2**60), load_checkpoint),
    "header_cut_off": file_job(b"\x08\x00", load_checkpoint),
    "huge_tensor": file_job(
        raw(json.dumps({"a": tensor_entry([2**40], [0, 2**42])}), bytes(8)), load_checkpoint
    ),
    "shape_that_overflows": file_job(
        raw(json.dumps({"a": tensor_entry([2**33, 2**33], [0, 8])}), bytes(8)), load_checkpoint
    ),
    "overlapping_tensors": file_job(raw(json.dumps(OVERLAPPING), bytes(12)), load_checkpoint),
    "doubled_names": file_job(raw(DOUBLED, bytes(8)), load_checkpoint),
    "no_card": file_job(save({"a": torch.zeros(2)}), load_checkpoint),
    "card_is_no_json": file_job(with_card("$import os"), load_checkpoint),
    "card_is_deep": file_job(with_card("[" * 100_000), load_checkpoint),
    "card_is_a_list": file_job(with_card([1]), load_checkpoint),
    "card_without_model": file_job(with_card({"kind": "autoencoder"}), load_autoencoder),
    "card_of_another_type": file_job(
        with_card({"kind": "autoencoder", "autoencoder": {"type": "os.system", "config": {}}}),
        load_autoencoder,
    ),
    "card_with_unknown_keys": file_job(with_card(autoencoder_card(_target_="os.system")), load_autoencoder),
    "card_of_petabytes": file_job(
        with_card(autoencoder_card(down_channels=[2**20, 2**20], n_groups=4)), load_autoencoder
    ),
    "card_of_many_blocks": file_job(with_card(autoencoder_card(n_res_blocks=10_000_000)), load_autoencoder),
    "card_of_blocks_within_the_limits": file_job(
        with_card(autoencoder_card(down_channels=[32] * 16, n_res_blocks=1024)), load_autoencoder
    ),
    "card_of_many_levels": file_job(
        with_card(autoencoder_card(down_channels=[32] * 100_000)), load_autoencoder
    ),
    "card_of_many_levels_up": file_job(
        with_card(autoencoder_card(up_channels=[32] * 100_000)), load_autoencoder
    ),
    "card_of_a_large_linear_path": file_job(
        with_card(autoencoder_card(down_channels=[32] * 16, linear_path=True)), load_autoencoder
    ),
    "card_of_many_timesteps": file_job(
        latent_card(noise_path={"kind": "ddpm", "n_timesteps": 1e11}), load_latent_diffusion
    ),
    "card_of_many_whole_timesteps": file_job(
        latent_card(noise_path={"kind": "ddpm", "n_timesteps": 10**11}), load_latent_diffusion
    ),
    "card_of_timesteps_of_before": file_job(latent_card(n_timesteps=10**11), load_latent_diffusion),
    "card_of_a_large_space": file_job(
        latent_card(space={"size": [16384] * 3, "spacing_mm": [1, 1, 1], "intensity": {"kind": "ct_window"}}),
        load_latent_diffusion,
    ),
    "card_of_a_deep_denoiser": file_job(
        latent_card(unet={"n_transformer_layers": 10**7}), load_latent_diffusion
    ),
    "metaimage_of_another_file": volume_job("a.mha", metaimage(b"", ElementDataFile="../../key.raw")),
    "nrrd_of_another_file": volume_job("a.nrrd", nrrd(b"", data_file="../../key.raw")),
    "metaimage_bomb": volume_job("a.mha", packed_metaimage(bytes(2**24))),
    "metaimage_that_claims_more": volume_job("a.mha", packed_metaimage(bytes(8), DimSize="800 800 800")),
    "state_pickled": state_job(lambda path: (path / "network.safetensors").write_bytes(pickled()) and None),
    "state_manifest_elsewhere": state_job(spoil_manifest),
    "state_link_elsewhere": state_job(spoil_link),
    "perceptual_weights_pickled": file_job(torch_archive(), MedicalNetLoss, "weights.pth"),
    "object_array": file_job(object_array(), lambda path: read_npy(path, spacing_mm=(1, 1, 1)), "a.npy"),
    "nifti_bomb": file_job(nifti_bomb(), lambda path: LoadVolume()(str(path)), "a.nii.gz"),
    "text_encoder_with_code": text_encoder_job,
    "subject_up_the_folders": prepare_job("../../x"),
    "subject_of_an_absolute_path": prepare_job("/tmp/x"),
    "subject_hidden": prepare_job(".ssh"),
    "output_through_a_link": prepare_link_job,
    "edited_name_up_the_folders": lambda _: EditRequest(image="a", label="b", new_label="c", name="../../x"),
    "edited_name_absolute": lambda _: EditRequest(image="a", label="b", new_label="c", name="/tmp/x"),
    "checkpoint_name_up_the_folders": checkpoint_name_job,
    **IMPORTS,
}


ERRORS = (
    "CheckpointError",
    "ConfigError",
    "StateError",
    "ValueError",
    "OutputError",
    "UnsupportedVolumeError",
    "CorruptVolumeError",
    "VolumeTooLargeError",
)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("files")
    found = watch_all([*FILES.items(), ("unpickled", lambda _: pickle.loads(pickled()))], folder)
    for name in FILES:
        assert {path.name for path in (folder / name).iterdir()} <= {"bundle", "elsewhere.safetensors"}, name
        assert not (folder / name / "bundle" / "MARK").exists()
    assert (folder / "unpickled" / "bundle" / "MARK").exists()
    return found


@pytest.mark.parametrize("name", FILES)
def test_nothing_runs_and_the_error_is_one_of_the_packages(name: str, seen: Seen) -> None:
    error, events = seen[name]
    # The file that the attack itself moved away is not a write of the package.
    assert [event for event in events if "elsewhere" not in event] == []
    kind, _, message = error.partition(": ")
    assert kind in ERRORS, error
    assert len(message) > 20


def test_the_detector_sees_unpickling(seen: Seen) -> None:
    assert seen["unpickled"][1] == ["pickle.find_class", "os.system"]
