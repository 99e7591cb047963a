"""What the scenes hold: subjects by the name of their Unicode character, and background colours."""

from __future__ import annotations

# word of the captions -> Unicode name of the character whose emoji is drawn
SUBJECTS: dict[str, str] = {
    "cat": "CAT FACE",
    "dog": "DOG FACE",
    "panda": "PANDA FACE",
    "fox": "FOX FACE",
    "pig": "PIG FACE",
    "cow": "COW FACE",
    "frog": "FROG FACE",
    "monkey": "MONKEY FACE",
    "rabbit": "RABBIT FACE",
    "penguin": "PENGUIN",
    "owl": "OWL",
    "turtle": "TURTLE",
    "octopus": "OCTOPUS",
    "crab": "CRAB",
    "fish": "TROPICAL FISH",
    "whale": "SPOUTING WHALE",
    "butterfly": "BUTTERFLY",
    "ladybug": "LADY BEETLE",
    "apple": "RED APPLE",
    "banana": "BANANA",
    "strawberry": "STRAWBERRY",
    "grapes": "GRAPES",
    "watermelon": "WATERMELON",
    "lemon": "LEMON",
    "pineapple": "PINEAPPLE",
    "avocado": "AVOCADO",
    "carrot": "CARROT",
    "mushroom": "MUSHROOM",
    "burger": "HAMBURGER",
    "doughnut": "DOUGHNUT",
    "cactus": "CACTUS",
    "sunflower": "SUNFLOWER",
    "tree": "DECIDUOUS TREE",
    "heart": "HEAVY BLACK HEART",
    "star": "WHITE MEDIUM STAR",
    "moon": "CRESCENT MOON",
    "snowman": "SNOWMAN WITHOUT SNOW",
    "umbrella": "UMBRELLA",
    "balloon": "BALLOON",
    "gift": "WRAPPED PRESENT",
    "crown": "CROWN",
    "diamond": "GEM STONE",
    "guitar": "GUITAR",
    "rocket": "ROCKET",
    "car": "AUTOMOBILE",
    "house": "HOUSE BUILDING",
    "robot": "ROBOT FACE",
    "ghost": "GHOST",
}

# word of the captions -> background colour, RGB in 0..1
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.16, 0.18),
    "orange": (0.94, 0.52, 0.14),
    "yellow": (0.96, 0.83, 0.28),
    "green": (0.27, 0.62, 0.30),
    "cyan": (0.32, 0.78, 0.82),
    "blue": (0.18, 0.36, 0.78),
    "purple": (0.48, 0.27, 0.66),
    "pink": (0.95, 0.62, 0.76),
    "grey": (0.50, 0.51, 0.53),
    "white": (0.94, 0.94, 0.93),
}

WORDS = tuple(SUBJECTS)
COLOUR_WORDS = tuple(COLOURS)


def held_out_colour(subject: int, colour: int) -> bool:
    """Whether a subject on this background never occurs in training (one in ten)."""
    return (3 * subject + colour) % len(COLOUR_WORDS) == 7


def held_out_pair(first: int, second: int) -> bool:
    """Whether these two subjects never occur together in training (about one in six)."""
    return (first + second) * (first + second + 1 + first * second) % 6 == 2
