"""Model files: found by their usual names in registered folders, and nowhere else."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import folder_paths
import pytest
import torch
from comfyui_support.weighing import load_weight, noise, reference, scores
from lags_pack.nodes.weights.load_weight import LAGSLoadWeight
from lags_pack.rewards import clip
from lags_pack.rewards.checkpoint import CheckpointError
from lags_pack.rewards.layouts import IMAGES
from lags_pack.runtime.model_files import (
    BUNDLED,
    FOLDER,
    ModelFile,
    ModelFileError,
    register_folder,
)
from lags_pack.runtime.model_rewards import FILES, UNIT, of_openai, of_so400m, of_width
from lags_pack.tests import reward_files
from lags_pack.tests.reward_files import Payload
from safetensors.torch import load_file, save_file

Put = Callable[[str], Path]
PUBLISHED = [name for name, file in FILES.items() if file.published]
L14 = "clip-vit-large-patch14/model.safetensors"
OWN = "lags_demo/green/model.safetensors"
OWN_PICKSCORE = "lags_demo/scenes_pickscore/model.safetensors"
ANY = ModelFile("anything", folders=("clip_vision", "text_encoders"))


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """Empty folders weight_functions, clip_vision and text_encoders below this one."""
    for name in (FOLDER, "clip_vision", "text_encoders"):
        (tmp_path / name).mkdir()
        suffixes = folder_paths.folder_names_and_paths[name][1]
        entry = ([str(tmp_path / name)], suffixes)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def put(folders) -> Put:
    """Make an empty file: weight_functions/..., clip_vision/..., text_encoders/..."""

    def make(name: str) -> Path:
        path = folders / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    return make


def test_the_pack_makes_and_registers_its_folder(comfy_base):
    expected = comfy_base / "models" / FOLDER
    assert str(expected) in folder_paths.get_folder_paths(FOLDER) and expected.is_dir()


def test_a_folder_that_cannot_be_made_is_no_disaster(tmp_path, monkeypatch, caplog):
    (tmp_path / "models").touch()  # a file where the folder should be
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, FOLDER, ([], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_folder()
    assert "could not be made" in caplog.text
    assert FILES["PickScore"].choices() == ["auto", OWN_PICKSCORE]


# ---- the usual names --------------------------------------------------------------------------


USUAL = {
    "PickScore": ("PickScore_v1/model.safetensors", "preference/pickscore_v1.safetensors"),
    "HPSv2.1": ("HPS_v2.1_compressed.pt", "HPSv2/HPS_v2.1_compressed.safetensors"),
    "HPSv2": ("HPS_v2_compressed.pt", "hps/HPS_v2_compressed.safetensors"),
    "ImageReward": ("ImageReward/ImageReward.pt", "ImageReward.safetensors"),
    "aesthetic": (
        "sac+logos+ava1-l14-linearMSE.pth",
        "aesthetic/sac+logos+ava1-l14-linearMSE.safetensors",
        "aesthetic_predictor_v2_5.pth",
    ),
    "aesthetic SigLIP": (
        "siglip-so400m-patch14-384/model.safetensors",
        "clip_vision/sigclip_vision_patch14_384.safetensors",
    ),
    "aesthetic CLIP": (L14, "clip_vision/clip_vision_l.safetensors"),
    "CLIP score": (L14, "clip-vit-base-patch32/model.safetensors"),
    "content": (
        *("dinov2-base/model.safetensors", "clip_vision/dinov2_large.safetensors"),
        *(
            "siglip-base-patch16-224/model.safetensors",
            "clip_vision/sigclip_vision_384.safetensors",
        ),
        "clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    ),
    "style": ("clip_vision/clip-vit-large-patch14.safetensors",),
    "perceptual": (
        *("vgg16-397923af.pth", "vgg16.tv_in1k/model.safetensors"),
        *("alexnet-owt-7be5be79.pth", "torchvision/alexnet.safetensors"),
    ),
    "LPIPS heads": ("vgg.pth", "v0.1/alex.pth", "lpips_vgg.safetensors"),
}


@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, files in USUAL.items() for file in files]
)
def test_auto_finds_the_usual_names(folders, put, kind, file):
    for stray in ("A.safetensors", "zz/model.safetensors", "HPS_v2.txt"):
        put(f"{FOLDER}/{stray}")
    expected = put(file if file.startswith("clip_vision/") else f"{FOLDER}/{file}")
    assert FILES[kind].path("auto") == expected


def test_auto_finds_every_published_name(folders, put):
    """All files as their pages have them, side by side: each kind takes its own."""
    for kind in PUBLISHED:
        put(f"{FOLDER}/{FILES[kind].published.file}")
    for kind in PUBLISHED:
        assert FILES[kind].path("auto") == folders / FOLDER / FILES[kind].published.file


def test_choices_are_weight_files_with_their_folders_name(folders, put):
    for name in ("b/model.safetensors", "a.PT", "c.sft", "d.pth", "e.bin", "f.onnx", "g.json", "h"):
        put(f"{FOLDER}/{name}")
    put("clip_vision/v.safetensors")
    put("text_encoders/t.safetensors")
    own = ["a.PT", "b/model.safetensors", "c.sft", "d.pth", "e.bin"]
    assert FILES["PickScore"].choices() == ["auto", *own, OWN_PICKSCORE]
    assert FILES["style"].choices() == ["auto", *own, "clip_vision/v.safetensors"]
    assert FILES["text side"].choices() == [*own, "text_encoders/t.safetensors"]
    assert FILES["classifier"].choices() == [*own, OWN]
    assert FILES["style"].path("clip_vision/v.safetensors") == folders / "clip_vision/v.safetensors"


def test_a_subfolder_may_be_named_as_a_borrowed_folder(folders, put):
    path = put(f"{FOLDER}/clip_vision/model.safetensors")
    (choice,) = FILES["style"].choices()[1:]
    assert FILES["style"].path(choice) == path


def test_a_new_file_is_offered_without_a_restart(folders, put):
    def offered() -> list[str]:
        option = LAGSLoadWeight.INPUT_TYPES()["required"]["reward"][1]["options"][0]
        return option["inputs"]["required"]["file"][1]["options"]

    assert offered() == ["auto", OWN_PICKSCORE]
    put(f"{FOLDER}/new/model.safetensors")
    assert offered() == ["auto", "new/model.safetensors", OWN_PICKSCORE]


# ---- what auto takes --------------------------------------------------------------------------


def write(path: Path, keys: dict[str, tuple[int, ...]]) -> Path:
    """A small random file with these keys and shapes."""
    reward_files.save(path, {key: torch.randn(shape) for key, shape in keys.items()})
    return path


def clip_file(path: Path, *sides: str) -> Path:
    """A small CLIP of transformers, or the parts of it that begin so, and nothing beside it."""
    weights = reward_files.clip_model().state_dict()
    kept = {k: v for k, v in weights.items() if not sides or k.startswith(sides)}
    reward_files.save(path, kept)
    return path


SIGLIP = {
    "vision_model.embeddings.patch_embedding.weight": (8, 3, 4, 4),
    "vision_model.embeddings.patch_embedding.bias": (8,),
    "vision_model.encoder.layers.0.layer_norm1.weight": (8,),
    "vision_model.head.probe": (1, 1, 8),
}
BAGEL_VAE = {"encoder.conv_in.weight": (8, 3, 3, 3), "decoder.conv_in.weight": (8, 4, 3, 3)}
HUGE = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"


def test_auto_takes_a_siglip_for_content_only(folders):
    """Its usual name has 'clip' in it; a CLIP is taken before it, whatever the two are called."""
    siglip = write(folders / "clip_vision/sigclip_vision_patch14_384.safetensors", SIGLIP)
    with pytest.raises(ModelFileError, match=r"patch14_384.safetensors \(a SigLIP\)"):
        FILES["style"].path("auto")
    assert FILES["content"].path("auto") == siglip
    good = clip_file(folders / "clip_vision/zz_clip_h.safetensors", *clip.VISION)
    assert FILES["content"].path("auto") == FILES["style"].path("auto") == good


def test_auto_passes_over_a_siglip_that_cannot_serve(folders):
    """One of image models without its head, and NaFlex."""
    bare = {key: shape for key, shape in SIGLIP.items() if "head" not in key}
    write(folders / FOLDER / "siglip_redux.safetensors", bare)
    flex = SIGLIP | {"vision_model.embeddings.patch_embedding.weight": (8, 768)}
    write(folders / FOLDER / "siglip2-naflex/model.safetensors", flex)
    with pytest.raises(ModelFileError, match=r"naflex.*\(NaFlex\).*without its pooling head"):
        FILES["content"].path("auto")
    good = write(folders / FOLDER / "siglip2-zz/model.safetensors", SIGLIP)
    assert FILES["content"].path("auto") == good


def test_auto_matches_names_without_a_borrowed_folders(folders, caplog):
    """A VAE that lies in clip_vision is no CLIP, and is not read as one."""
    write(folders / "clip_vision/bagel/ae.safetensors", BAGEL_VAE)
    good = clip_file(folders / "clip_vision" / HUGE, *clip.VISION)
    with caplog.at_level("INFO"):
        assert FILES["content"].path("auto") == good
    assert f"auto took clip_vision/{HUGE} for a CLIP" in caplog.text
    assert "Passed over: clip_vision/bagel/ae.safetensors (a VAE)" in caplog.text


def test_a_borrowed_folders_name_is_no_part_of_a_usual_name(folders):
    """A file of any name in clip_vision is taken too, but after those that are named so."""
    other = clip_file(folders / "clip_vision/SD1.5/model.safetensors", *clip.VISION)
    assert FILES["content"].path("auto") == FILES["style"].path("auto") == other
    named = clip_file(folders / "clip_vision/zz_clip_h.safetensors", *clip.VISION)
    assert FILES["content"].path("auto") == FILES["style"].path("auto") == named


def test_auto_prefers_a_whole_clip_where_the_text_is_of_the_same_file(folders):
    """The image side alone is taken where the text side is another file."""
    alone = clip_file(folders / "clip_vision/clip_vision_l.safetensors", *clip.VISION)
    whole = reward_files.clip_folder(folders / FOLDER / "clip-vit-base-patch32")
    reward_files.clip_folder(folders / "text_encoders/clip_l")
    shutil.copy(whole.parent / "config.json", alone.parent)
    assert FILES["CLIP score"].path("auto") == whole
    assert torch.isfinite(scores(load_weight("CLIP score"), noise(1))).all()
    whole.unlink()
    apart = load_weight("CLIP score", text_file="text_encoders/clip_l/model.safetensors")
    assert torch.isfinite(scores(apart, noise(1))).all()
    with pytest.raises(ModelFileError, match=r"clip_vision_l.safetensors \(the image side"):
        load_weight("CLIP score")


def test_auto_takes_the_image_side_that_fits_the_text(folders):
    """By the number of features that both give."""
    small = reward_files.clip_vision(folders / "clip_vision")
    wide = {k: (9, 8) if "projection" in k else s for k, s in CLIP_VISION_L.items()}
    write(folders / "clip_vision/clip_vision_l.safetensors", wide)
    reward_files.clip_folder(folders / "text_encoders/clip_l")
    apart = load_weight("CLIP score", text_file="text_encoders/clip_l/model.safetensors")
    assert torch.isfinite(scores(apart, noise(1))).all()
    assert FILES["CLIP score"].path("auto", IMAGES, of_width(24)) == small


CLIP_VISION_L = {
    "vision_model.embeddings.class_embedding": (8,),
    "vision_model.encoder.layers.0.layer_norm1.weight": (8,),
    "visual_projection.weight": (24, 8),
}


@pytest.mark.parametrize(
    "laion", ["CLIP-ViT-L-14-laion2B-s32B-b82K", "CLIP-ViT-L-14-DataComp.XL-s13B-b90K"]
)
def test_auto_never_reads_the_aesthetic_head_with_another_training(folders, laion):
    """The same keys and shapes, but of another space: only the name tells."""
    reward_files.aesthetic(folders / FOLDER)
    reward_files.clip_folder(folders / FOLDER / laion)
    clip_file(folders / "clip_vision" / f"{laion}.safetensors", *clip.VISION)
    with pytest.raises(ModelFileError, match=r"not OpenAI's, by its name.*Download model"):
        load_weight("aesthetic")
    good = reward_files.clip_folder(folders / FOLDER / "zz" / "clip-vit-large-patch14")
    assert torch.isfinite(scores(load_weight("aesthetic"), noise(1))).all()
    assert FILES["aesthetic CLIP"].path("auto", fault=of_openai(24)) == good


def test_auto_takes_the_clip_as_wide_as_the_aesthetic_head(folders):
    reward_files.aesthetic(folders / FOLDER, width=9)
    write(folders / "clip_vision/clip_vision_l.safetensors", CLIP_VISION_L)
    with pytest.raises(ModelFileError, match="gives 24 features, not 9"):
        load_weight("aesthetic")


POSITIONS, WORDS = (
    f"{part}.embeddings.{name}_embedding.weight"
    for part, name in (("vision_model", "position"), ("text_model", "token"))
)
SO400M = SIGLIP | {POSITIONS: (729, 1152), WORDS: (32000, 1)}


def test_auto_takes_the_siglip_that_the_aesthetic_head_was_trained_on(folders):
    """Not one of another size, nor SigLIP 2, told by its vocabulary or else by its name."""
    reward_files.aesthetic_25(folders / FOLDER)
    place = folders / FOLDER
    write(place / "a-siglip/model.safetensors", SO400M | {POSITIONS: (196, 768)})
    write(place / "b-siglip/model.safetensors", SO400M | {WORDS: (32001, 1)})
    write(folders / "clip_vision/siglip2_so400m.safetensors", SIGLIP | {POSITIONS: (729, 1152)})
    with pytest.raises(ModelFileError) as caught:
        load_weight("aesthetic")
    for said in (
        "a-siglip/model.safetensors (sees 196 patches and gives 768 features, not 729 and 1152)",
        "b-siglip/model.safetensors (a SigLIP 2, whose features",
        "clip_vision/siglip2_so400m.safetensors (a SigLIP 2, whose features",
        "Download model.safetensors (3.5 GB) from https://huggingface.co/google/siglip-so400m",
    ):
        assert said in str(caught.value)
    good = write(folders / "clip_vision/zz_sigclip_384.safetensors", SO400M)
    assert FILES["aesthetic SigLIP"].path("auto", fault=of_so400m) == good


def test_an_aesthetic_head_of_version_25_reads_a_siglip(folders):
    reward_files.aesthetic_25(folders / FOLDER)
    reward_files.siglip(folders / FOLDER)
    clip_file(folders / "clip_vision/clip_vision_l.safetensors", *clip.VISION)
    file = "siglip-tiny/model.safetensors"
    assert torch.isfinite(scores(load_weight("aesthetic", clip=file), noise(1))).all()
    with pytest.raises(CheckpointError, match="is the image side of a CLIP; expected a SigLIP's"):
        load_weight("aesthetic", clip="clip_vision/clip_vision_l.safetensors")


def test_the_perceptual_weight_takes_unit_weights_where_there_are_no_heads(folders, caplog):
    """And says so; heads of another network are none."""
    reward_files.vgg16(folders / FOLDER)
    reward_files.lpips(folders / FOLDER, (64, 192, 384, 256, 256))
    image = noise(3)
    bare = scores(reference(image[2:], "perceptual"), image)
    assert torch.equal(bare, scores(reference(image[2:], "perceptual", heads=UNIT), image))
    (said,) = [r.getMessage() for r in caplog.records if "perceptual weight" in r.getMessage()]
    assert "takes unit weights" in said and "for layers of [64, 192, 384, 256, 256]" in said
    assert "vgg.pth" in said and "https://github.com/richzhang/PerceptualSimilarity" in said
    with pytest.raises(CheckpointError, match="this network's have.*or unit weights"):
        reference(image[2:], "perceptual", heads="lpips/vgg.pth")
    with pytest.raises(ModelFileError, match="no file 'lpips/none.pth'"):
        reference(image[2:], "perceptual", heads="lpips/none.pth")
    reward_files.lpips(folders / FOLDER / "lpips_zz")
    caplog.clear()
    assert (scores(reference(image[2:], "perceptual"), image) != bare)[0, :2].all()
    assert "unit weights" not in caplog.text


def test_auto_passes_over_networks_that_the_perceptual_weight_cannot_read(folders):
    """VGG16 with batch norms has the name; its layers have other numbers."""
    norms = {f"features.{i}.weight": (2, 2, 3, 3) for i in (0, 3, 24, 27)}
    norms["features.25.running_mean"] = (2,)
    write(folders / FOLDER / "vgg16_bn.safetensors", norms)
    with pytest.raises(ModelFileError, match=r"vgg16_bn.safetensors \(another network.*timm/vgg16"):
        FILES["perceptual"].path("auto")
    good = reward_files.alexnet(folders / FOLDER)
    assert FILES["perceptual"].path("auto") == good


def test_style_takes_an_image_side_without_its_projection(folders):
    path = reward_files.clip_vision(folders / "clip_vision" / "clip")
    whole = scores(reference(noise(1), "style"), noise(2))
    weights = load_file(path)
    del weights["visual_projection.weight"]
    save_file(weights, path)
    assert torch.equal(scores(reference(noise(1), "style"), noise(2)), whole)
    with pytest.raises(ModelFileError, match="without its projection"):
        FILES["content"].path("auto")


def test_auto_says_what_else_would_serve(folders, caplog):
    for name in ("a", "b"):
        clip_file(folders / f"clip_vision/clip_{name}.safetensors", *clip.VISION)
    with caplog.at_level("INFO"):
        assert FILES["style"].path("auto").name == "clip_a.safetensors"
    assert "auto took clip_vision/clip_a.safetensors for a CLIP, the first" in caplog.text
    assert "clip_vision/clip_b.safetensors would serve too" in caplog.text
    caplog.clear()
    (folders / "clip_vision/clip_b.safetensors").unlink()
    assert FILES["style"].path("auto").name == "clip_a.safetensors"
    assert caplog.text == "", "nothing to choose, nothing to say"


def test_auto_takes_a_damaged_file_only_where_no_other_can_serve(folders, put):
    """It may be what is wanted, and its reader says what is wrong with it."""
    damaged = put(f"{FOLDER}/PickScore_v1/model.safetensors")
    assert FILES["PickScore"].path("auto") == damaged
    good = reward_files.clip_folder(folders / FOLDER / "pickscore_zz")
    assert FILES["PickScore"].path("auto") == good


def test_auto_looks_again_at_a_file_that_has_changed(folders):
    path = write(folders / "clip_vision/clip.safetensors", SIGLIP)
    with pytest.raises(ModelFileError):
        FILES["style"].path("auto")
    clip_file(path, *clip.VISION)
    assert FILES["style"].path("auto") == path


def test_auto_takes_none_of_the_packs_own(folders, monkeypatch):
    """However well it would serve: it stands for no published file."""
    own = folders / "own"
    for name in ("scenes_clip", "scenes_pickscore"):
        reward_files.clip_folder(own / name)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, BUNDLED, ([str(own)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind in ("PickScore", "CLIP score"):
        with pytest.raises(ModelFileError, match="No file was found"):
            FILES[kind].path("auto")
    assert FILES["PickScore"].path("lags_demo/scenes_pickscore/model.safetensors").is_file()


# ---- what is missing --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PUBLISHED)
@pytest.mark.parametrize("choice", ["auto", "gone/away.safetensors"])
def test_a_missing_file_is_described(folders, kind, choice):
    published = FILES[kind].published
    with pytest.raises(ModelFileError) as caught:
        FILES[kind].path(choice)
    message = str(caught.value)
    for part in (
        FILES[kind].what,
        f"as {published.file} in {folders / FOLDER}",
        f"Download {published.file.split('/')[-1]} ({published.gigabytes:g} GB)",
        published.page,
    ):
        assert part in message
    assert ("'gone/away.safetensors'" in message) == (choice != "auto")


@pytest.mark.parametrize(
    "name", ["PickScore", "HPSv2.1", "HPSv2", "ImageReward", "CLIP score", "aesthetic"]
)
def test_the_node_says_so(folders, name):
    with pytest.raises(ModelFileError, match=f"Download.*{FILES[name].published.page}"):
        load_weight(name)


@pytest.mark.parametrize("kind", ["classifier", "text side"])
def test_any_model_of_a_kind_is_described_too(folders, kind):
    with pytest.raises(ModelFileError, match=f"{FILES[kind].what} in {folders / FOLDER}.*press R"):
        FILES[kind].path("auto")


# ---- what may be read -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder",
    [
        *("../", "a/../../", "..\\", "clip_vision/../../", "{folders}/"),
        *("clip_vision/{folders}/", "\\\\host\\"),
    ],
)
def test_names_that_lead_out_are_refused(folders, put, folder):
    put("secret.safetensors")
    put(f"{FOLDER}/a/model.safetensors")
    with pytest.raises(ModelFileError, match="leads out of the folder"):
        ANY.path(folder.format(folders=folders) + "secret.safetensors")


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_link_out_of_the_registered_folders_is_refused(folders, put, as_folder):
    outside = put("outside/secret.safetensors")
    link = folders / FOLDER / "link"
    link.symlink_to(outside.parent) if as_folder else link.mkdir()
    if not as_folder:
        (link / outside.name).symlink_to(outside)
    with pytest.raises(ModelFileError, match=f"link to {outside}, outside.*extra_model_paths"):
        ANY.path("link/secret.safetensors")


def test_the_folder_named_for_a_hugging_face_cache_is_one_that_works(folders, put):
    """There the names are links into a folder beside theirs, whose files have none."""
    repository = folders / "hub" / "models--openai--clip"
    blob = put("hub/models--openai--clip/blobs/0123abcd")
    snapshot = repository / "snapshots" / "r1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    (folders / FOLDER / "clip").symlink_to(snapshot)
    with pytest.raises(ModelFileError, match="name the folder") as caught:
        ANY.path("clip/model.safetensors")
    named = re.search(r"name the folder (\S+) in extra_model_paths.yaml", str(caught.value))[1]
    assert named == str(repository)
    folder_paths.add_model_folder_path(FOLDER, named)
    assert ANY.path("clip/model.safetensors").resolve() == blob
    assert "snapshots/r1/model.safetensors" in ANY.choices()
    assert ANY.path("snapshots/r1/model.safetensors").resolve() == blob


def test_of_a_model_in_parts_the_first_is_offered(folders, put):
    """It stands for all of them, under the name of the whole."""
    path = reward_files.clip_folder(folders / FOLDER / "clip-vit-large-patch14")
    weights = load_file(path)
    for number, part in ((1, clip.VISION), (2, (*clip.TEXT, "logit_scale"))):
        kept = {key: value for key, value in weights.items() if key.startswith(part)}
        reward_files.save(path.with_name(f"model-{number:05}-of-00002.safetensors"), kept)
    expected = scores(load_weight("CLIP score"), noise(1))
    path.unlink()
    first = "clip-vit-large-patch14/model-00001-of-00002.safetensors"
    assert FILES["style"].choices() == ["auto", first]
    assert FILES["CLIP score"].path("auto") == folders / FOLDER / first
    torch.testing.assert_close(scores(load_weight("CLIP score"), noise(1)), expected)


@pytest.mark.parametrize("home", ["text_encoders", FOLDER])
def test_a_link_to_a_registered_folder_is_taken(folders, put, home):
    target = put(f"{home}/there/real.safetensors")
    link = folders / FOLDER / "link.safetensors"
    link.symlink_to(target)
    assert ANY.path("link.safetensors") == link


def test_extra_model_paths(folders, put, comfy_root):
    """As extra_model_paths.yaml names them, by ComfyUI's own reader of that file."""
    first = put(f"{FOLDER}/both.safetensors")
    extra = put("disk/lags/PickScore_v1/model.safetensors")
    put("disk/lags/both.safetensors")
    settings = folders / "extra_model_paths.yaml"
    settings.write_text(f"other:\n  base_path: {folders}/disk\n  {FOLDER}: lags\n", "utf-8")
    # By its path: `utils` may be comfy/utils.py, since ComfyUI puts that folder on sys.path too.
    reader = comfy_root / "utils" / "extra_config.py"
    spec = importlib.util.spec_from_file_location("extra_config", reader)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.load_extra_path_config(str(settings))
    named = ("auto", "PickScore_v1/model.safetensors", first.name)
    assert FILES["PickScore"].choices() == [*named, OWN_PICKSCORE]
    assert FILES["PickScore"].path("auto") == extra
    assert ANY.path("both.safetensors") == first
    with pytest.raises(ModelFileError, match=f"{folders / FOLDER}, {folders}/disk/lags"):
        ANY.path("gone.safetensors")


def test_a_file_in_an_extra_folder_is_read(weight_files, folders):
    folder_paths.add_model_folder_path(FOLDER, str(folders / "disk"))
    shutil.copytree(weight_files / "PickScore_v1", folders / "disk" / "PickScore_v1")
    assert torch.isfinite(scores(load_weight("PickScore"), noise(1))).all()


# ---- files that are not what they seem --------------------------------------------------------


def attack(kind: str, good: Path, folder: Path) -> str:
    """A file that must not be taken; its name."""
    folder.mkdir()
    for beside in good.parent.glob("*.*"):
        if beside.name != good.name:
            shutil.copyfile(beside, folder / beside.name)
    path = folder / ("model.pt" if kind == "payload" else "model.safetensors")
    if kind == "payload":
        content = {"state_dict": {**load_file(good), "extra": Payload(folder / "mark")}}
        torch.save(content, path)
    elif kind == "NaN":
        weights = load_file(good)
        weights["visual_projection.weight"][0, 0] = math.nan
        save_file(weights, path)
    else:
        whole = good.read_bytes()
        path.write_bytes(b"" if kind == "empty" else whole[: len(whole) // 2])
    return f"{folder.name}/{path.name}"


SAID = {
    "payload": "damaged, or holds more than tensors.*could run code",
    "truncated": "damaged or no safetensors",
    "NaN": "not finite in visual_projection.weight",
    "empty": r"empty \(0 bytes\)",
}


@pytest.mark.parametrize("kind", SAID)
def test_an_attack_file_gets_a_sentence_and_the_next_run_works(weight_files, folders, kind):
    good = folders / FOLDER / "PickScore_v1" / "model.safetensors"
    shutil.copytree(weight_files / "PickScore_v1", good.parent)
    before = scores(load_weight("PickScore"), noise(1))
    name = attack(kind, good, folders / FOLDER / "bad")
    for read in (
        lambda: load_weight("PickScore", file=name),
        lambda: load_weight("CLIP score", text_file=name, file=name),
        lambda: reference(noise(1), file=name),
    ):
        with pytest.raises(CheckpointError, match=SAID[kind]):
            read()
    assert torch.equal(scores(load_weight("PickScore"), noise(1)), before)
    if kind == "payload":
        mark = folders / FOLDER / "bad" / "mark"
        assert not mark.exists()
        torch.load(folders / FOLDER / name, weights_only=False)  # noqa: S614
        assert mark.exists(), "it would have worked on a loader that unpickles"


# The text side of a CLIP as ComfyUI's folder text_encoders has it: nothing but that side.
def test_text_side_alone_in_text_encoders(weight_files, folders):
    whole = weight_files / "clip-vit-large-patch14"
    shutil.copytree(whole, folders / FOLDER / whole.name)
    text = folders / "text_encoders" / "clip_l"
    shutil.copytree(whole, text)
    weights = load_file(text / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k.startswith(clip.TEXT)}, text / "model.sft")
    (text / "model.safetensors").unlink()
    apart = load_weight("CLIP score", text_file="text_encoders/clip_l/model.sft")
    image = noise(2)
    # Not bit for bit: weights begin where their file's header ends, 20 bytes past a multiple of 64
    # in one file and 56 in the other, and a processor's sums hang on that. To float32's tolerance.
    torch.testing.assert_close(scores(apart, image), scores(load_weight("CLIP score"), image))
