"""Label selectors (metav1.LabelSelector) as Kubernetes evaluates them."""

from collections.abc import Mapping

from porter_ha.core.problem import Problem
from porter_ha.model.objects import LabelSelector

_NEEDS_VALUES = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}


def check(field: str, selector: LabelSelector | None) -> None:
    """Raises Problem for a selector that means nothing; `field` is where it stands."""
    for i, rule in enumerate(selector.match_expressions or () if selector is not None else ()):
        where = f"{field}.matchExpressions[{i}]"
        if rule.operator not in _NEEDS_VALUES:
            raise Problem(f"{where}.operator", f"{rule.operator!r} is none of {', '.join(_NEEDS_VALUES)}")
        if _NEEDS_VALUES[rule.operator] != bool(rule.values):
            must = "needs" if _NEEDS_VALUES[rule.operator] else "takes no"
            raise Problem(f"{where}.values", f"operator {rule.operator} {must} values")


def matches(selector: LabelSelector | None, labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy a selector that passed `check`. None and the empty selector match everything."""
    if selector is None:
        return True
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    for rule in selector.match_expressions or ():
        value = labels.get(rule.key)
        if rule.operator == "In":
            good = value is not None and value in (rule.values or ())
        elif rule.operator == "NotIn":
            good = value is None or value not in (rule.values or ())
        else:
            good = (value is not None) == (rule.operator == "Exists")
        if not good:
            return False
    return True
