"""The Spin models: right in every reachable state, each known-bad variant refuted by its trail."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPO = Path(__file__).resolve().parent.parent.parent


def _load_check() -> ModuleType:
    """model/check.py is a script beside the models, no package."""
    spec = importlib.util.spec_from_file_location("model_check", REPO / "model" / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check = _load_check()

# Fewer states than these, and a search was cut or a fault can no longer happen.
STATES_AT_LEAST = {"ring, every store, 1 death": 700_000, "writable layer, 2 deaths": 800_000}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return {size.name: result for size, result in check.search_all(check.SMALL)}


@pytest.mark.parametrize("name", [size.name for size in check.SMALL])
def test_property_holds_in_every_reachable_state(name: str, results: dict[str, Any]) -> None:
    assert results[name].error == "", results[name].output
    assert results[name].states > STATES_AT_LEAST.get(name, 10_000)


@pytest.mark.parametrize("variant", check.VARIANTS, ids=lambda variant: variant.name)
def test_stored_trail_still_leads_the_bad_variant_to_its_error(variant: Any) -> None:
    assert check.replay(variant) == variant.error, "stale: run model/check.py trails"


def test_a_variant_without_its_fault_does_not_follow_the_trail() -> None:
    variant = check.VARIANTS[0]
    sound = check.Variant(variant.name, "ring", "NDEATH=1 NSUPER=0 NHAND=0", variant.error, "")
    assert check.replay(sound) == ""
