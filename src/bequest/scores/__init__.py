"""Scores that say before any training which source, and which of its layers, suits a task."""

from bequest.scores.agreement import agreement
from bequest.scores.design import Design
from bequest.scores.registry import ScoreInfo, get_score, score, score_all, scores

__all__ = ["Design", "ScoreInfo", "agreement", "get_score", "score", "score_all", "scores"]
