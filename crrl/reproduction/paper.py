"""Section IV of the paper: its tables and figures, their rows and columns, and the numbers printed in them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from crrl.data.registry import PRESETS
from crrl.methods import Method

Protocol = Literal["linear", "knn", "logistic", "loss"]
PaperName = Literal[
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "table6",
    "table6-parts",
    "table7",
    "table8",
    "table9",
    "table10",
    "figure4",
    "figure6",
    "figure7",
    "figure8",
]
RowKind = Literal["ours", "supervised", "unsupervised", "floor"]
Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Column:
    """One column: a data set and the split, or all folds of a cross-validation, whose accuracies it holds.

    `dataset` is the name in a configuration; for a folder of the user's own clips it is the folder's name.
    """

    dataset: str
    label: str
    splits: tuple[str, ...] = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.dataset} {self.label}"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: as printed. paper: its numbers, one for each column of the target (None: not printed).
        method: the method whose encoder is tested; None: the random encoder, or a quoted row.
        settings: where the run departs from the recipe, as (name of the option, value).
        kind: "ours": run here. "floor": tested beside every run and shown below all rows. "supervised", "unsupervised":
            other papers' results, quoted as this paper prints them.
        loss: in a figure of losses, the key of the loss in metrics.jsonl.
    """

    name: str
    paper: Numbers = ()
    method: Method | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    kind: RowKind = "ours"
    loss: str = ""


@dataclass(frozen=True)
class Target:
    """A table or figure.

    Attributes:
        title: the caption. columns: the paper's; other data sets get columns of their own (`columns_of`).
        protocol: what is measured: accuracy by a classifier or by 1-NN, or the last epoch's training loss.
        notes: what a reader must know about the numbers.
        against_first: whether the rows are compared with the first row, not with the paper.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    protocol: Protocol = "linear"
    notes: tuple[str, ...] = ()
    against_first: bool = False

    @property
    def has_numbers(self) -> bool:
        """Whether the paper has a number in any cell."""
        return any(value is not None for row in self.rows for value in row.paper)


LABELS = {"cross-view": "C-View", "cross-setup": "C-Setup", "cross-subject": "C-Sub"}
"""The names that the tables give to splits."""


def columns_known(dataset: str) -> tuple[Column, ...]:
    """A column for each preset split of a data set, or one for all its folds; none for the name of a folder."""
    splits = PRESETS[dataset].splits if dataset in PRESETS else ()
    if splits and all(split.startswith("fold-") for split in splits):
        return (Column(dataset, f"{len(splits)} folds", splits),)
    return tuple(Column(dataset, LABELS.get(split, split), (split,)) for split in splits)


NTU60, NTU120, CMU, NW_UCLA = map(columns_known, ("ntu60", "ntu120", "cmu", "nw-ucla"))
NTU = NTU60 + NTU120
C_SUB = NTU60[1:]

# The columns are those of NTU and, if there are six, CMU and NW-UCLA.
RAND = Row("Rand-Enc", (51.0, 45.5, 31.5, 29.5, 57.2, 50.5))
CML = Row("CML", (68.1, 62.8, 51.6, 50.9, 76.7, 72.8), "cml")
SER = Row("SER", (72.2, 65.8, 55.2, 54.1, 76.9, 81.4), "ser")
CRRL = Row("CRRL", (73.8, 67.6, 57.0, 56.2, 78.7, 83.8), "crrl")


def _of(row: Row, columns: slice, name: str = "") -> Row:
    """A row of Table VI in some of its columns."""
    return Row(name or row.name, row.paper[columns], row.method)


def _quoted(kind: RowKind, numbers: dict[str, Numbers]) -> tuple[Row, ...]:
    return tuple(Row(name, paper, kind=kind) for name, paper in numbers.items())


def _momentum(encoder: float, mlp: float, accuracy: float) -> Row:
    settings = (("momentum_encoder", encoder), ("momentum_mlp", mlp))
    return Row(f"m_enc = {encoder:g}, m_mlp = {mlp:g}", (accuracy,), "cml", settings)


def _swept(symbol: str, setting: str, values: tuple[float, ...], best: float) -> tuple[Row, ...]:
    """CML over the values of one setting; the paper prints its number for the best value only."""
    return tuple(
        Row(f"{symbol} = {value:g}", (62.8 if value == best else None,), "cml", ((setting, value),)) for value in values
    )


TABLE_1 = (
    *_quoted(
        "supervised",
        {
            "HOPC [62]": (52.8, 50.1),
            "HBRNN [38]": (64.0, 59.1),
            "Part-Aware-LSTM [21]": (70.3, 62.9),
            "ST-LSTM [9]": (77.7, 69.2),
            "VA-RNN-Aug [44]": (87.6, 79.4),
        },
    ),
    *_quoted(
        "unsupervised",
        {
            "LongT GAN [12]": (56.4, 52.1),
            "MS2L [14]": (None, 52.6),
            "PCRP [49]": (63.5, 53.9),
            "CAE+ [51]": (64.8, 58.5),
            "3s-CrosSCLR(LSTM) [53]": (69.2, 62.8),
        },
    ),
    _of(CRRL, slice(0, 2), "CRRL (Ours)"),
)
TABLE_2 = (
    *_quoted(
        "supervised",
        {
            "Soft RNN [63]": (44.9, 36.3),
            "ST-LSTM [9]": (57.9, 55.7),
            "RotClips+MTCNN [64]": (61.8, 62.2),
        },
    ),
    *_quoted(
        "unsupervised",
        {
            "LongT GAN [12]": (39.7, 35.6),
            "PCRP [49]": (45.1, 41.7),
            "CAE+ [51]": (49.2, 48.6),
            "3s-CrosSCLR(LSTM) [53]": (53.2, 53.9),
        },
    ),
    _of(CRRL, slice(2, 4), "CRRL (Ours)"),
)
TABLE_3 = (
    *_quoted("supervised", {"HBRNN [21]": (75.0,), "Co-deep LSTM [42]": (81.0,)}),
    *_quoted("unsupervised", {"Composite LSTM [21]": (61.4,), "LongT GAN [12]": (66.2,)}),
    _of(CRRL, slice(4, 5), "CRRL (Ours)"),
)
TABLE_4 = (
    *_quoted("supervised", {"HOPC [62]": (74.2,), "HBRNN-L [38]": (78.5,), "VA-RNN-Aug [44]": (90.7,)}),
    *_quoted("unsupervised", {"LongT GAN [12]": (74.3,), "MS2L [14]": (76.8,)}),
    _of(CRRL, slice(5, 6), "CRRL (Ours)"),
)
TABLE_5 = (
    *_quoted(
        "unsupervised",
        {
            "LongT GAN [12]": (74.3, 48.1, 39.1),
            "P&C FS-AEC [13]": (83.8, 76.3, 50.6),
            "P&C FW-AEC [13]": (84.9, 76.1, 50.7),
        },
    ),
    Row("CRRL (Ours)", (86.4, 75.2, 60.7), "crrl"),
)
TABLE_6 = (
    RAND,
    CML,
    SER,
    Row("CML-SER-joint", (72.5, 66.6, 56.3, 55.4, 77.3, 82.2), "cml-ser-joint"),
    Row("CML-pretrain-SER", (72.0, 66.5, 55.4, 54.4, 76.0, 80.8), "cml-pretrain-ser"),
    Row("SER-pretrain-CML", (68.5, 58.7, 50.7, 48.1, 73.3, 79.7), "ser-pretrain-cml"),
    Row("SER-distill-CML", (71.9, 64.6, 54.6, 53.6, 77.4, 80.6), "ser-distill-cml"),
    CRRL,
)
TABLE_6_PARTS = (RAND, CML, SER, CRRL)
TABLE_7 = (
    _of(RAND, slice(0, 4)),
    Row("Gaussian noise", (54.8, 49.6, 34.9, 36.9), "contrast-noise"),
    Row("Shear", (56.2, 51.4, 42.3, 43.1), "contrast-shear"),
    Row("Rotation", (56.9, 51.7, 42.5, 44.0), "contrast-rotation"),
    _of(CML, slice(0, 4), "Velocity (the proposed)"),
)
TABLE_8 = (
    Row("forward", (70.7, 63.9, 53.6, 52.6), "ser-forward"),
    Row("reverse", (71.1, 64.4, 51.7, 51.4), "ser-reverse"),
    _of(SER, slice(0, 4), "SER (forward+reverse)"),
)
TABLE_9 = (
    _momentum(1.0, 1.0, 55.9),
    *(_momentum(0.999, *pair) for pair in ((0.999, 50.5), (0.9999, 51.9), (0.99999, 58.1), (1.0, 62.8))),
    *(
        _momentum(m, 1.0, accuracy)
        for m, accuracy in ((0.5, 60.1), (0.7, 61.2), (0.8, 62.0), (0.9, 62.3), (0.99, 62.5))
    ),
    _momentum(0.9999, 1.0, 59.5),
)
TABLE_10 = (
    Row("VG", (65.9, 61.1, 52.1, 50.8), "vg"),
    _of(CML, slice(0, 4)),
    Row("VGSR", (72.4, 66.2, 55.7, 55.1), "vgsr"),
    _of(CRRL, slice(0, 4)),
)
FIGURE_4 = (
    Row("CML, L_c", (2.15,), "cml", loss="loss_c"),
    Row("CML-SER-joint, L_c", (2.43,), "cml-ser-joint", loss="loss_c"),
    Row("SER, L_r", (None,), "ser", loss="loss_r"),
    Row("CML-SER-joint, L_r", (None,), "cml-ser-joint", loss="loss_r"),
    Row("CRRL, L_r", (None,), "crrl", loss="loss_r"),
    Row("CRRL, L_d", (None,), "crrl", loss="loss_d"),
)
PARTS_AND_WHOLE = tuple(_of(row, slice(5, 6)) for row in (CML, SER, CRRL))
FIGURE_8 = (
    *_swept("K", "queue_size", (2, 8, 32, 64, 128, 512), best=64),
    *_swept("τ", "temperature", (0.02, 0.05, 0.1, 0.2, 0.5, 1.0), best=0.1),
)

CONFUSIONS = (
    ("cml", "carry", "carry", 82.0),
    ("ser", "carry", "carry", 84.0),
    ("crrl", "carry", "carry", 93.0),
    ("cml", "doffing", "donning", 5.0),
    ("ser", "doffing", "donning", 23.0),
)
"""What the text says of Fig. 6: method, true class, predicted class, percent of the true class's clips."""

TARGETS: dict[str, Target] = {
    "table1": Target("Table I: NTU RGB+D 60, linear evaluation", NTU60, TABLE_1),
    "table2": Target("Table II: NTU RGB+D 120, linear evaluation", NTU120, TABLE_2),
    "table3": Target("Table III: CMU, linear evaluation", CMU, TABLE_3),
    "table4": Target("Table IV: NW-UCLA, linear evaluation", NW_UCLA, TABLE_4),
    "table5": Target("Table V: NW-UCLA and NTU RGB+D 60, 1-NN by cosine", NW_UCLA + NTU60, TABLE_5, "knn"),
    "table6": Target("Table VI: fusion strategies", NTU + CMU + NW_UCLA, TABLE_6),
    "table6-parts": Target("Table VI, the parts and the whole alone", NTU + CMU + NW_UCLA, TABLE_6_PARTS),
    "table7": Target("Table VII: augmentations for contrastive learning", NTU, TABLE_7),
    "table8": Target("Table VIII: reconstruction methods", NTU, TABLE_8),
    "table9": Target("Table IX: momentum of the key encoder and of the key MLP", C_SUB, TABLE_9),
    "table10": Target("Table X: VG and VGSR beside CML and CRRL", NTU, TABLE_10),
    "figure4": Target(
        "Figure 4: training losses",
        C_SUB,
        FIGURE_4,
        "loss",
        ("The text gives only the two contrastive losses; the other values of the curves are drawn, not printed.",),
    ),
    "figure6": Target("Figure 6: confusion matrices of CML, SER and CRRL", NW_UCLA, PARTS_AND_WHOLE),
    "figure7": Target("Figure 7: t-SNE of the features of CML, SER and CRRL", NW_UCLA, PARTS_AND_WHOLE),
    "figure8": Target(
        "Figure 8: number of negatives K and temperature τ",
        C_SUB,
        FIGURE_8,
        notes=("The paper draws this figure and prints only its best point (K = 64, τ = 0.1); the values are ours.",),
    ),
}


def columns_of(target: Target, dataset: str, default_split: str, folds: tuple[str, ...] = ()) -> tuple[Column, ...]:
    """The columns of a data set: the target's own; else, if rows are compared with the first, `folds` of its training
    clips; else those of its preset splits; else its default split."""
    own = tuple(column for column in target.columns if column.dataset == dataset)
    if not own and folds and target.against_first:
        return (Column(dataset, f"training clips, {len(folds)} folds", folds),)
    return own or columns_known(dataset) or (Column(dataset, default_split, (default_split,)),)


def paper_number(target: Target, row: Row, column: Column) -> float | None:
    """The paper's number in a cell; None if it prints none."""
    if column not in target.columns:
        return None
    return row.paper[target.columns.index(column)]


def measured_by(target: Target, protocol: Protocol) -> Target:
    """A target's own rows by another protocol, without the paper's numbers, which belong to the paper's protocol."""
    rows = tuple(replace(row, paper=(None,) * len(row.paper)) for row in target.rows if row.kind == "ours")
    return replace(target, title=f"{target.title}, by {protocol}", rows=rows, protocol=protocol)
