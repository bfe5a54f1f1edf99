"""The paper's tables and figures: what each cell is, which runs it needs, and the pages that compare ours with it."""

from typing import Literal

from crrl.reproduction import alternatives, paper
from crrl.reproduction.alternatives import AlternativeName
from crrl.reproduction.campaign import Campaign
from crrl.reproduction.pages import write_page
from crrl.reproduction.paper import PaperName
from crrl.reproduction.plan import Settings, make_plan

TargetName = Literal[PaperName, AlternativeName]
TARGETS = paper.TARGETS | alternatives.TARGETS

__all__ = ["TARGETS", "Campaign", "Settings", "TargetName", "make_plan", "write_page"]
