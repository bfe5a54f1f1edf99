"""The paper's tables and figures: what each cell is, which runs it needs, and the pages that compare."""

from crrl.reproduction.campaign import Campaign
from crrl.reproduction.pages import write_page
from crrl.reproduction.paper import TARGETS, TargetName
from crrl.reproduction.plan import Settings, make_plan

__all__ = ["TARGETS", "Campaign", "Settings", "TargetName", "make_plan", "write_page"]
