"""The colours of the whole book: what has a colour in one figure has it in all of them.

They are those of Okabe and Ito (https://jfly.uni-koeln.de/color/), which colour-blind readers can tell apart, and a
grey for what everything else is compared with. A colour never stands alone: a marker or a line style goes with it.
"""

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
PINK, YELLOW, SKY = "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8A8A8A"

CONNECTED = BLUE  # a block that calls its stage's module, as in the scheme explorer
RIGHT, WRONG = GREEN, ORANGE  # the title of a picture by what the network said of it

# In the order of the paper's tables; EAN is blue because it is what is left of the connections.
FORM_COLOURS = {
    "backbone": GREY,
    "org-full": PINK,
    "share-full": ORANGE,
    "ean": BLUE,
    "random": GREEN,
    "constant": SKY,
    "late": YELLOW,
}
FORM_MARKERS = {
    "backbone": "X",
    "org-full": "s",
    "share-full": "o",
    "ean": "v",
    "random": "D",
    "constant": "^",
    "late": "P",
}

MODULE_COLOURS = {"se": BLUE, "sge": GREEN, "dia": ORANGE}
MODULE_MARKERS = {"se": "o", "sge": "^", "dia": "s"}

# Ways to search, and the two modes of the controller; random search has the colour of random schemes.
METHOD_COLOURS = {
    "random": GREEN,
    "greedy": GREY,
    "evolution": PINK,
    "TPE": YELLOW,
    "REINFORCE": BLUE,
    "corrected": BLUE,
    "official": ORANGE,
}

SEED_MARKERS = "os^DvP"

# Schemes by the first stage with a connected block (0: none), from those that connect early to those that do not.
STAGE_GROUPS = (
    ((1,), BLUE, "o", "a block of stage 1"),
    ((2,), GREEN, "s", "stage 2, not 1"),
    ((0, 3, 4), ORANGE, "^", "only later, or none"),
)
