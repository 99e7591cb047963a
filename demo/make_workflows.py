"""The workflows for Stable Diffusion, in two sizes each, and one for MM-SOLD, made from a drawing.

They differ in a checkpoint and a few numbers, and must not drift apart: change them here, then
``python3 dev.py workflows URL --make``. Those of the demo model and sd*_colour are made by hand.

Places are in the page's pixels. Every workflow has its notes and what all runs share on the left,
and one framed row for each run, plain sampling first, all with the same seed.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .workflow import GROWING, both_kinds, is_widget, node_inputs, widget_names

Source = tuple[int, int]  # a node's id, and the number of its output
Place = tuple[int, int]
PLAIN, GUIDED, OTHER = "#3f789e", "#b58b2a", "#8a4b5c"  # colours of frames
SAMPLER, ROW, WIDE = 830, 760, 2080  # where rows begin, and their usual height and width
HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class Model:
    """A published model file; a page offers it if it is a safetensors file."""

    name: str
    path: str
    folder: str = "weight_functions"

    @property
    def entry(self) -> dict[str, str]:
        """For a node's properties."""
        return {"name": self.name, "url": HUB + self.path, "directory": self.folder}

    @property
    def is_offered(self) -> bool:
        """Whether a page may offer the download."""
        return self.name.endswith(".safetensors")

    @property
    def needed(self) -> str:
        """For a note."""
        return f"- [{self.name}]({HUB}{self.path}) in `models/{self.folder}`"


@dataclass(frozen=True)
class Base:
    """A diffusion model and what goes with it.

    Attributes:
        prefix: of file names.
        title: for notes.
        checkpoint: the file.
        side: pixels of a picture.
        steps, cfg: of its samplers.
        batch: pictures of a fairness run.
        memory: a warning for methods that go backward through it.
    """

    prefix: str
    title: str
    checkpoint: Model
    side: int
    steps: int
    cfg: float
    batch: int
    memory: str


BASES = (
    Base(
        "sd15",
        "SD 1.5",
        Model(
            "v1-5-pruned-emaonly-fp16.safetensors",
            "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
            "v1-5-pruned-emaonly-fp16.safetensors",
            "checkpoints",
        ),
        side=512,
        steps=28,
        cfg=7,
        batch=8,
        memory="expect 12 GB; with less, lower width and height",
    ),
    Base(
        "sdxl",
        "SDXL",
        Model(
            "sd_xl_base_1.0.safetensors",
            "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
            "checkpoints",
        ),
        side=1024,
        steps=30,
        cfg=6,
        batch=4,
        memory="at 1024 pixels expect 24 GB and more; with less, set width and height to 768",
    ),
)
PICKSCORE = Model(
    "PickScore_v1.safetensors", "yuvalkirstain/PickScore_v1/resolve/main/model.safetensors"
)
HPS = Model(
    "HPS_v2.1_compressed.pt",  # published so and not otherwise; only its tensors are read
    "xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt",
)
AESTHETIC = Model(
    "sac+logos+ava1-l14-linearMSE.safetensors",
    "ttj/sac-logos-ava1-l14-linearMSE/resolve/main/model.safetensors",
)
CLIP_L = Model(
    "clip-vit-large-patch14.safetensors",
    "openai/clip-vit-large-patch14/resolve/main/model.safetensors",
)
CLASSIFIER = Model(
    "vit-base-patch16-224/model.safetensors",
    "google/vit-base-patch16-224/resolve/main/model.safetensors",
)
SAVED_AS = "A browser saves some of them as *model.safetensors*: give them the names above."
NATS = (
    "*automatic strength* in the weight sets the size of the effect: 1 is gentle, 3 clear, 10 "
    "strong; the console reports the strength that was chosen."
)


class Graph:
    """A workflow that grows node by node, in the page's format.

    Args:
        name: of the file; its pictures are saved below lags/name.
        info: the server's /object_info.
    """

    def __init__(self, name: str, info: dict[str, Any]) -> None:
        self.name, self.info = name, info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []

    def add(
        self,
        kind: str,
        at: Place,
        size: Place,
        values: list[Any] | None = None,
        sources: dict[str, Source] | None = None,
        title: str = "",
        models: tuple[Model, ...] = (),
    ) -> list[Source]:
        """A node with the values of its widgets, in the page's order; its outputs."""
        node: dict[str, Any] = {"id": len(self.nodes) + 1, "type": kind}
        node |= {"pos": list(at), "size": list(size), "flags": {}, "order": len(self.nodes)}
        node |= {"mode": 0, "inputs": [], "outputs": []}
        node |= {"title": title} if title else {}
        node["properties"] = {"Node name for S&R": kind} if kind in self.info else {}
        if models:
            node["properties"]["models"] = [model.entry for model in models]
        node["widgets_values"] = values or []
        self.nodes.append(node)
        if kind not in self.info:
            return []  # a note
        self._connect(node, sources or {})
        for name, type_ in zip(
            self.info[kind]["output_name"], self.info[kind]["output"], strict=True
        ):
            output = {"localized_name": name, "name": name, "type": type_, "links": None}
            node["outputs"].append(output)
        return [(node["id"], slot) for slot in range(len(node["outputs"]))]

    def _connect(self, node: dict[str, Any], sources: dict[str, Source]) -> None:
        """Sockets first, then a socket for every widget, as a page has them."""
        known = self._sockets(node, sources)
        widgets = filter(None, widget_names(node, self.info))
        for name in [*known, *widgets]:
            node["inputs"].append(self._socket(node, name, known.get(name)))
        unknown = sources.keys() - {socket["name"] for socket in node["inputs"]}
        if unknown:
            raise ValueError(f"{node['type']} has no input {unknown}.")
        for slot, socket in enumerate(node["inputs"]):
            if socket["name"] in sources:
                socket["link"] = self._link(sources[socket["name"]], node["id"], slot)

    def _sockets(self, node: dict[str, Any], sources: dict[str, Source]) -> dict[str, bool]:
        """Names of the sockets, and whether they may stay open; a growing list has one to spare."""
        required = self.info[node["type"]]["input"].get("required", {})
        inputs = both_kinds(self.info[node["type"]]["input"])
        growing = {name for name, spec in inputs.items() if spec[0] == GROWING}
        found, spare = {}, set(growing)
        for name, spec in node_inputs(node, self.info).items():
            if is_widget(spec):
                continue
            parent = name.split(".")[0]
            if parent not in growing:
                found[name] = name not in required
            elif name in sources or parent in spare:
                found[name] = not name.endswith("0")
                spare -= set() if name in sources else {parent}
        return found

    def _socket(
        self, node: dict[str, Any], name: str, may_stay_open: bool | None
    ) -> dict[str, Any]:
        """An input; `may_stay_open` is None for that of a widget."""
        type_ = node_inputs(node, self.info)[name][0]
        grown = may_stay_open is not None and "." in name
        socket: dict[str, Any] = {"label": name.split(".")[1]} if grown else {}
        socket |= {"localized_name": name, "name": name}
        socket |= {"shape": 7} if may_stay_open else {}
        socket |= {"type": "COMBO" if isinstance(type_, list) else type_}
        socket |= {"widget": {"name": name}} if may_stay_open is None else {}
        return socket | {"link": None}

    def _link(self, source: Source, target: int, slot: int) -> int:
        """A new link's number."""
        origin, output = source
        number = len(self.links) + 1
        given = self.nodes[origin - 1]["outputs"][output]
        given["links"] = [*(given["links"] or []), number]
        self.links.append([number, origin, output, target, slot, given["type"]])
        return number

    def note(self, text: str, size: Place) -> None:
        """The note at the top left."""
        self.add("MarkdownNote", (0, 0), size, [text], title="Read me")
        self.nodes[-1] |= {"color": "#432", "bgcolor": "#653"}

    def frame(self, title: str, at: Place, size: Place, colour: str) -> None:
        """A group around nodes that lie inside of it."""
        group = {"id": len(self.groups) + 1, "title": title, "bounding": [*at, *size]}
        self.groups.append(group | {"color": colour, "flags": {}})

    def write(self, folder: Path) -> None:
        """Save the file."""
        content = {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"lags/{self.name}")),
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [150, 120]}},
            "version": 0.4,
        }
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (folder / f"{self.name}.json").write_text(text, encoding="utf-8")


@dataclass
class Scene:
    """A graph with checkpoint, prompts and empty latents, to which runs are added."""

    graph: Graph
    base: Base
    model: Source
    vae: Source
    positive: Source
    negative: Source
    latent: Source
    text: Source | None

    @classmethod
    def of(
        cls,
        graph: Graph,
        base: Base,
        note: str,
        text: str,
        batch: int = 1,
        height: int = 400,
        shared: bool = False,
    ) -> Scene:
        """The left side of a workflow.

        Args:
            graph: an empty one.
            base: the diffusion model.
            note: what the reader must know.
            text: the prompt.
            batch: pictures of a run.
            height: of the note.
            shared: whether a weight reads the prompt too, so that it stands in a node of its own.
        """
        graph.note(note, (330, height))
        below, file = height + 60, base.checkpoint
        model, clip, vae = graph.add(
            "CheckpointLoaderSimple", (0, below), (330, 98), [file.name], models=(file,)
        )
        (latent,) = graph.add(
            "EmptyLatentImage", (0, below + 180), (330, 106), [base.side, base.side, batch]
        )
        kind, size, y, read = "CLIPTextEncode", (360, 140), 0, {"clip": clip}
        if shared:
            (read["text"],) = graph.add(
                "PrimitiveStringMultiline", (390, 0), size, [text], title="Prompt"
            )
            text, y = "", 210
        (positive,) = graph.add(kind, (390, y), size, [text], read, "Positive prompt")
        negative_text = ["text, watermark, blurry"]
        (negative,) = graph.add(
            kind, (390, y + 210), size, negative_text, {"clip": clip}, "Negative prompt"
        )
        return cls(graph, base, model, vae, positive, negative, latent, read.get("text"))

    def settings(self, denoise: float = 1) -> list[Any]:
        """The values that all sampler nodes share."""
        return [
            *(1, "fixed", self.base.steps, self.base.cfg),
            *("euler_ancestral", "karras", denoise),
        ]

    def sources(self, **more: Source) -> dict[str, Source]:
        """What all sampler nodes are connected to."""
        return {
            "model": self.model,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
        } | more

    def plain(self, at: Place, denoise: float = 1, **more: Source) -> Source:
        """ComfyUI's own sampler; its latents."""
        values, sources = self.settings(denoise), self.sources(**more)
        (samples,) = self.graph.add("KSampler", at, (300, 262), values, sources)
        return samples

    def guided(
        self,
        at: Place,
        weight: Source,
        strength: float = 1,
        c: float = 10,
        denoise: float = 1,
        **more: Source,
    ) -> list[Source]:
        """Our sampler; its latents and its trace."""
        return self.graph.add(
            "LAGSKSampler",
            at,
            (300, 634),
            [*self.settings(denoise), strength, "balanced", c],
            self.sources(vae=self.vae, weight=weight, **more),
        )

    def particles(self, at: Place, weight: Source, method: str = "lags") -> list[Source]:
        """Four particles, the best of them; latents, log weights, trace, summary."""
        own = [1, method, 4, "from method", -1, "from method", 0, 0, "best", 1]
        return self.graph.add(
            "LAGSParticleSampler",
            at,
            (300, 860),
            [*self.settings(), *own],
            self.sources(vae=self.vae, weight=weight),
        )

    def picture(self, samples: Source, at: Place, name: str) -> Source:
        """Decode and save; the pictures."""
        (images,) = self.graph.add(
            "VAEDecode", at, (230, 46), None, {"samples": samples, "vae": self.vae}
        )
        self.graph.add(
            "SaveImage",
            (at[0] + 280, at[1]),
            (360, 400),
            [f"lags/{self.graph.name}/{name}"],
            {"images": images},
        )
        return images

    def framed(
        self,
        title: str,
        at: Place,
        samples: Source,
        name: str,
        height: int = ROW,
        colour: str = GUIDED,
    ) -> Source:
        """Picture and frame of the run whose sampler stands there; the pictures."""
        self.graph.frame(title, (at[0] - 15, at[1] - 75), (1040, height), colour)
        return self.picture(samples, (at[0] + 350, at[1]), name)

    def judge(self, runs: list[Source], weight: Source) -> None:
        """The scores of all runs' pictures, ranked together, to the right of them."""
        x = SAMPLER + 1075
        grown = {f"images.image{i}": images for i, images in enumerate(runs)}
        (batch,) = self.graph.add("BatchImagesNode", (x, 75), (230, 110), None, grown)
        sources = {"images": batch, "weight": weight}
        self.graph.add("LAGSScoreImages", (x + 280, 75), (470, 450), [0], sources)
        self.graph.frame("Which scores higher", (x - 15, 0), (780, 560), OTHER)

    def two_rows(self, weight: Source, guided: str) -> list[Source]:
        """A plain run and a guided one; their pictures."""
        above, below = (SAMPLER, 75), (SAMPLER, 665)
        plain = self.framed("Plain: p(x)", above, self.plain(above), "plain", 560, PLAIN)
        samples = self.guided(below, weight)[0]
        return [plain, self.framed(guided, below, samples, "guided")]

    def load(
        self, at: Place, reward: str, files: list[Model], strength: float, nats: float
    ) -> Source:
        """Load Weight Function, with the prompt where the reward reads one."""
        names = [file.name if file.is_offered else "auto" for file in files]
        prompt = [] if reward == "aesthetic" else [""]
        (weight,) = self.graph.add(
            "LAGSLoadWeight",
            at,
            (360, 190),
            [reward, *names, *prompt, "auto", strength, nats],
            {"reward.prompt": self.text} if prompt else {},
            models=tuple(file for file in files if file.is_offered),
        )
        return weight

    def hue(self, at: Place, hue: float, nats: float) -> Source:
        """A colour to ask for: a weight that needs no file."""
        (weight,) = self.graph.add(
            "LAGSWeightColor", at, (360, 160), ["hue", hue, "#2060ff", 40, nats]
        )
        return weight


def needs(*models: Model) -> str:
    """A note's list of files."""
    lines = [model.needed for model in models]
    if any(not model.path.endswith("/" + model.name.split("/")[-1]) for model in models):
        lines.append("\n" + SAVED_AS)
    return "Needs\n\n" + "\n".join(lines)


TOWN = "photograph of a small harbour town in the morning, boats, houses on a hill"
FOX = "a fox reading a book under a tree, detailed illustration, soft light"


def preference(graph: Graph, base: Base, reward: str, file: Model, strength: float) -> None:
    """One preference model."""
    extra = (
        "\n\nComfyUI offers no download of a .pt file: save it from the link. HPS also needs the "
        "package open_clip_torch."
        if file is HPS
        else ""
    )
    default = (
        "that of PickScore, because none is published," if file is HPS else "the published one"
    )
    note = (
        f"**Images that people would prefer.** {base.title}, the same seed plain and drawn from "
        f"w(x)·p(x), where w is {reward} for the prompt. Score Images ranks both.\n\n"
        f"{needs(base.checkpoint, file)}{extra}\n\n{NATS} With 0 there *strength* is used; its "
        f"default is {default} and very strong. One seed proves little: change *seed* in both."
    )
    scene = Scene.of(graph, base, note, FOX, shared=True)
    weight = scene.load((390, 620), reward, [file], strength, 2.5)
    scene.judge(scene.two_rows(weight, f"Drawn by {reward}: w(x)·p(x)"), weight)


def pickscore(graph: Graph, base: Base) -> None:
    """PickScore."""
    preference(graph, base, "PickScore", PICKSCORE, 100)


def hps(graph: Graph, base: Base) -> None:
    """HPSv2.1."""
    preference(graph, base, "HPSv2.1", HPS, 10000)


def combined(graph: Graph, base: Base) -> None:
    """Two weights."""
    note = (
        f"**Two weights at once.** {base.title}; w is the product of the aesthetic score and "
        "PickScore, so an image needs both to score high. Score Images lists both scores of both "
        "images.\n\n"
        f"{needs(base.checkpoint, PICKSCORE, AESTHETIC, CLIP_L)}\n\n{NATS} Each weight has its "
        "own; write *1, 0.5* into *exponents* to halve the second."
    )
    scene = Scene.of(graph, base, note, FOX, height=470, shared=True)
    first = scene.load((390, 620), "PickScore", [PICKSCORE], 100, 2)
    second = scene.load((390, 920), "aesthetic", [AESTHETIC, CLIP_L], 200, 2)
    grown = {"weights.weight0": first, "weights.weight1": second}
    (weight,) = graph.add("LAGSCombineWeights", (390, 1220), (360, 118), [""], grown)
    scene.judge(scene.two_rows(weight, "Drawn by both weights"), weight)


def frequency(graph: Graph, base: Base) -> None:
    """More and less detail."""
    note = (
        f"**More detail, or less.** {base.title}; the weight scores the energy of the brightness "
        "between two spatial frequencies. The sampler's *strength* is 1 in the middle row and -1 "
        f"in the last, where the weight favours the opposite.\n\n{needs(base.checkpoint)}\n\n"
        f"{NATS} *low* and *high* choose the scale: 0.05 to 0.15 is form, 0.15 to 0.5 is texture."
    )
    scene = Scene.of(graph, base, note, TOWN)
    (weight,) = graph.add("LAGSWeightFrequency", (390, 620), (360, 140), [0.1, 0.5, 2, 3])
    y = 0
    for title, name, strength in (
        ("Plain: p(x)", "plain", 0),
        ("More fine detail: strength 1", "more", 1),
        ("Less fine detail: strength -1", "less", -1),
    ):
        at, height = (SAMPLER, y + 75), ROW if strength else 510
        samples = scene.guided(at, weight, strength)[0] if strength else scene.plain(at)
        scene.framed(title, at, samples, name, height, GUIDED if strength else PLAIN)
        y += height + 30


def inpaint(graph: Graph, base: Base) -> None:
    """A weight inside of a mask, and painting again inside of it."""
    side = base.side
    note = (
        f"**A weight for a part of the image.** {base.title} draws a room, then paints its middle "
        "again: plainly, and with a weight that judges only the middle (*blue*). Around the mask "
        f"nothing is painted.\n\n{needs(base.checkpoint)}\n\nThe mask is made by "
        "three nodes; for an image and a mask of your own connect Load Image (and VAE Encode) "
        f"instead. *denoise* says how much may change. {NATS}"
    )
    scene = Scene.of(graph, base, note, "photograph of a living room, sofa, window", height=430)
    quarter, half = side // 4, side // 2
    (black,) = graph.add("SolidMask", (0, 880), (330, 106), [0, side, side])
    (white,) = graph.add("SolidMask", (0, 1080), (330, 106), [1, half, half])
    (mask,) = graph.add(
        "MaskComposite",
        (390, 1000),
        (360, 126),
        [quarter, quarter, "add"],
        {"destination": black, "source": white},
    )
    judged = scene.hue((390, 620), 220, 3)
    at = (SAMPLER, 75)
    first = scene.plain(at)
    scene.framed("First image", at, first, "first", 510, PLAIN)
    (part,) = graph.add(
        "SetLatentNoiseMask",
        (SAMPLER, 620),
        (300, 46),
        None,
        {"samples": first, "mask": mask},
    )
    (weight,) = graph.add(
        "LAGSMaskWeight", (SAMPLER, 780), (300, 46), None, {"weight": judged, "mask": mask}
    )
    above, below = (SAMPLER + 1090, 75), (SAMPLER + 1090, 615)
    again = scene.plain(above, 0.85, latent_image=part)
    scene.framed("Its middle again, plain", above, again, "plain", 510, PLAIN)
    wished = scene.guided(below, weight, denoise=0.85, latent_image=part)[0]
    scene.framed("Its middle again, with the weight", below, wished, "guided")


def methods(graph: Graph, base: Base) -> None:
    """One weight, six ways."""
    note = (
        f"**One weight, five methods.** {base.title}, the same weight (hue 30°, *orange*) and "
        "seed; the plot shows all runs.\n\n"
        "*LAGS* needs no backward pass through the model. *DPS*, *FreeDoM*, *DAS* and *URGE* do, "
        f"which takes several times the memory: {base.memory}, or mute a frame (Ctrl+M). *DAS* and "
        "*URGE* run four particles for the image; their panels show the cost. The size of "
        "FreeDoM's steps is *step*, not the weight's strength.\n\n"
        f"{needs(base.checkpoint)}\n\n{NATS}"
    )
    scene = Scene.of(graph, base, note, TOWN, height=560)
    weight = scene.hue((390, 620), 30, 3)
    traces: list[Source] = []
    for number, title in enumerate(("Plain: p(x)", "LAGS", "DPS", "FreeDoM", "DAS", "URGE")):
        x, y = SAMPLER + 800 * (number % 3), 75 + 1110 * (number // 3)
        samples, trace = _method(scene, title, (x, y), weight)
        traces += [trace] if trace else []
        name = title.split(":")[0].lower()
        low = y + (300 if title in ("DPS", "FreeDoM") else 0)
        (images,) = graph.add(
            "VAEDecode", (x + 350, low), (230, 46), None, {"samples": samples, "vae": scene.vae}
        )
        prefix = f"lags/{graph.name}/{name}"
        graph.add("SaveImage", (x + 350, low + 120), (380, 420), [prefix], {"images": images})
        colour = {"Plain: p(x)": PLAIN, "LAGS": GUIDED}.get(title, OTHER)
        graph.frame(title, (x - 15, y - 75), (770, 1080), colour)
    plot(graph, traces, (SAMPLER + 2410, 75))


def _method(scene: Scene, title: str, at: Place, weight: Source) -> tuple[Source, Source | None]:
    """Latents and trace of one of the six."""
    beside = (at[0] + 350, at[1])
    if title == "LAGS":
        samples, trace = scene.guided(at, weight)
    elif title == "DPS":
        (method,) = scene.graph.add("LAGSMethodDPS", beside, (300, 90), [1, False])
        samples, trace = scene.guided(at, weight, method=method)
    elif title == "FreeDoM":
        values = [0.2, 0.02, 0.7, 0.3, 0.4, 3]
        (method,) = scene.graph.add("LAGSMethodFreeDoM", beside, (300, 180), values)
        samples, trace = scene.guided(at, weight, method=method)
    elif title in ("DAS", "URGE"):
        samples, _, trace, _ = scene.particles(at, weight, title.lower())
    else:
        return scene.plain(at), None
    return samples, trace


def plot(graph: Graph, traces: list[Source], at: Place) -> None:
    """The runs' curves in one picture."""
    grown = {f"traces.trace{i}": trace for i, trace in enumerate(traces)}
    values = ["step", "light", 1, "none", f"lags/{graph.name}"]
    image, _ = graph.add("LAGSTracePlot", at, (300, 260), values, grown)
    graph.add("PreviewImage", (at[0] + 350, at[1]), (1000, 850), None, {"images": image})


def particles(graph: Graph, base: Base) -> None:
    """Several particles for each picture."""
    note = (
        f"**Several particles, weighed during the run.** {base.title}, PickScore. Above plain, "
        "then LAGS, then four *particles* for the image: they are guided and weighed during the "
        "run, the good ones are copied, and the best one is shown. They need hardly more memory; "
        f"the panel shows the time.\n\n{needs(base.checkpoint, PICKSCORE)}\n\nThe text has the "
        "*ESS* (effective sample size: how many particles count): raise *particles* if it is 1. "
        f"*draw* gives unbiased samples of w(x)·p(x), *all* every particle with its weight. {NATS}"
    )
    scene = Scene.of(graph, base, note, FOX, height=500, shared=True)
    weight = scene.load((390, 620), "PickScore", [PICKSCORE], 100, 2)
    runs = scene.two_rows(weight, "LAGS: w(x)·p(x)")
    y = 560 + ROW + 60
    samples, _, _, summary = scene.particles((SAMPLER, y + 75), weight)
    runs.append(scene.picture(samples, (SAMPLER + 350, y + 75), "particles"))
    graph.add(
        "PreviewAny",
        (SAMPLER + 350, y + 585),
        (640, 360),
        None,
        {"source": summary},
        title="Summary",
    )
    graph.frame("Particles", (SAMPLER - 15, y), (1040, 980), GUIDED)
    scene.judge(runs, weight)


def fairness(graph: Graph, base: Base) -> None:
    """Classes of a batch in equal parts."""
    page = CLASSIFIER.path.split("/resolve/")[0]
    note = (
        f"**A fair mix.** {base.title} has a favourite cat. The classifier's *balance* measures on "
        "the plain images how often each of four breeds comes, and draws the same seeds so that "
        "all come equally often.\n\n"
        f"{needs(base.checkpoint, CLASSIFIER)}\n- beside it config.json and "
        f"preprocessor_config.json of [the same page]({HUB}{page}/tree/main)\n\n"
        "For fairness of age or any other attribute use an image classifier of it, name its "
        "classes, and change the prompt. Rates from a few images are rough: raise *batch_size*, or "
        "write known *rates*. *strength* 1 is exact importance weighting for an exact classifier; "
        "a classifier that never saw blurred images guides little, so up to 2 may be needed."
    )
    scene = Scene.of(graph, base, note, "photo of a cat", batch=base.batch, height=620)
    at = (SAMPLER, 75)
    images = scene.framed("Plain: p(x)", at, scene.plain(at), "plain", 510, PLAIN)
    classes, x = "tabby, Persian cat, Siamese cat, Egyptian cat", SAMPLER + 1075
    (weight,) = graph.add(
        "LAGSWeightClassifier",
        (x, 75),
        (340, 250),
        [CLASSIFIER.name, "balance", classes, "", "", "auto", 1, 0],
        {"plain_images": images},
        models=(CLASSIFIER,),
    )
    fair = scene.guided((x + 390, 75), weight)[0]
    scene.picture(fair, (x + 740, 75), "fair")
    graph.frame("Each breed equally often", (x - 15, 0), (1430, ROW), GUIDED)


def schedule(graph: Graph, base: Base) -> None:
    """What c and the kind of schedule change."""
    note = (
        f"**When to guide.** {base.title}, one weight (*orange*), one seed, three schedules. The "
        "Schedule Visualizer shows the plan and its cost before anything is sampled; Trace Plot "
        "shows the runs.\n\n"
        "*uncertainty coefficient c*: larger means later and weaker guidance. The last run "
        "replaces it by a *hard gate* in LAGS Options: no guidance above a noise level, full "
        f"guidance below.\n\n{needs(base.checkpoint)}\n\nChange *c*, *mode* or *steps* in the "
        f"Visualizer: its panel follows at once. Then copy them to the samplers. {NATS}"
    )
    scene = Scene.of(graph, base, note, TOWN, height=500)
    weight = scene.hue((390, 620), 30, 3)
    (gate,) = graph.add(
        "LAGSOptions",
        (390, 880),
        (360, 270),
        ["hard gate", 0.56, -1, 0, 0, 0, "auto", -1, "from mode", 0],
    )
    at = (SAMPLER, 75)
    scene.framed("Plain: p(x)", at, scene.plain(at), "plain", 510, PLAIN)
    traces, y = [], 540
    for title, name, c in (
        ("c = 10, the default", "c10", 10.0),
        ("c = 1: earlier, stronger", "c1", 1.0),
        ("Hard gate: late", "gate", 10.0),
    ):
        more = {"options": gate} if name == "gate" else {}
        at = (SAMPLER, y + 75)
        samples, trace = scene.guided(at, weight, c=c, **more)
        scene.framed(title, at, samples, name)
        traces.append(trace)
        y += ROW + 30
    x = SAMPLER + 1100
    planned, _, _ = graph.add(
        "LAGSScheduleVisualizer",
        (x, 75),
        (330, 640),
        [
            *("euler_ancestral", "karras", base.steps, 1, "balanced", 10, 3),
            *("1, 10, 100", "step", "light", 1),
        ],
        {"model": scene.model},
    )
    graph.add("PreviewImage", (x + 380, 75), (1000, 850), None, {"images": planned}, title="Plan")
    graph.frame("The plan", (x - 15, 0), (1410, 1000), OTHER)
    plot(graph, traces, (x, 1115))
    graph.frame("The runs", (x - 15, 1040), (1410, 1000), OTHER)


def mmsold(graph: Graph) -> None:
    """New images from images."""
    note = (
        "**Press Run.** Nothing to download. MM-SOLD makes new images from given ones, without "
        "any diffusion model: blends of neighbours, with the mean and the variation of the set.\n\n"
        "The set here is 192 hearts, which the demo model draws first. The first row varies all of "
        "them; the second follows a weight (*blue*): blue ones count more.\n\n"
        "For images of your own connect a node that loads a folder of them: at least 8, better "
        "some dozens, similar and of one size (faces, icons, textures). *smoothing* below 0.4 "
        "copies the given ones, 0.5 to 0.8 blends neighbours, above 1 blends everything."
    )
    graph.note(note, (300, 430))
    model, positive, negative, _, latent = graph.add(
        "LAGSDemoModel", (0, 500), (300, 186), ["heart", "any", 192]
    )
    vae: Source = (model[0], 3)
    sources = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    values = [1, "fixed", 20, 1, "euler_ancestral", "karras", 1]
    (samples,) = graph.add("KSampler", (380, 75), (300, 262), values, sources)
    given = _enlarged(graph, samples, vae, (730, 75), "given")
    graph.frame("The given images", (365, 0), (1310, 520), PLAIN)
    (weight,) = graph.add("LAGSWeightColor", (0, 780), (300, 160), ["hue", 240, "#2060ff", 20, 0])
    for y, name, title, more in (
        (0, "varied", "New images", {}),
        (550, "blue", "New images, blue ones more often", {"weight": weight}),
    ):
        own, x = [1, 32, 100, 0.5, 0.05, 8, "exact", 0, 1, "fixed"], 1720
        images, _ = graph.add("LAGSMMSOLD", (x, y + 75), (300, 380), own, {"images": given} | more)
        _large(graph, images, (x + 350, y + 75), name)
        graph.frame(title, (x - 15, y), (1310, 520), GUIDED)


def _enlarged(graph: Graph, samples: Source, vae: Source, at: Place, name: str) -> Source:
    """Decode, enlarge and save; the pictures as they were."""
    sources = {"samples": samples, "vae": vae}
    (images,) = graph.add("VAEDecode", at, (230, 46), None, sources)
    _large(graph, images, (at[0], at[1] + 120), name, wide=True)
    return images


def _large(graph: Graph, images: Source, at: Place, name: str, wide: bool = False) -> None:
    """Enlarge small pictures and save them."""
    values = ["nearest-exact", 128, 128, "disabled"]
    (large,) = graph.add("ImageScale", at, (240, 130), values, {"image": images})
    above = (at[0] + 290, at[1] - (120 if wide else 0))
    prefix = f"lags/{graph.name}/{name}"
    graph.add("SaveImage", above, (640, 420), [prefix], {"images": large})


MADE = {
    "pickscore": pickscore,
    "hps": hps,
    "aesthetic_pickscore": combined,
    "frequency": frequency,
    "inpaint": inpaint,
    "methods": methods,
    "particles": particles,
    "fairness": fairness,
    "schedule": schedule,
}


def workflows(info: dict[str, Any]) -> Iterator[Graph]:
    """All of them, for a server's /object_info."""
    for base in BASES:
        for name, draw in MADE.items():
            graph = Graph(f"{base.prefix}_{name}", info)
            draw(graph, base)
            yield graph
    graph = Graph("mmsold_demo", info)
    mmsold(graph)
    yield graph


def write_workflows(info: dict[str, Any], folder: Path) -> None:
    """Write all of them."""
    for graph in workflows(info):
        graph.write(folder)
