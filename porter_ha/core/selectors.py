"""Label selectors (metav1.LabelSelector) as Kubernetes evaluates them."""

from collections.abc import Mapping

from porter_ha.model.objects import LabelSelector

_NEEDS_VALUES = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}


def check(selector: LabelSelector) -> str:
    """What is wrong with the selector, or an empty string."""
    for i, rule in enumerate(selector.match_expressions or ()):
        if rule.operator not in _NEEDS_VALUES:
            return f"matchExpressions[{i}].operator: {rule.operator!r} is none of {', '.join(_NEEDS_VALUES)}"
        if _NEEDS_VALUES[rule.operator] != bool(rule.values):
            must = "needs" if _NEEDS_VALUES[rule.operator] else "takes no"
            return f"matchExpressions[{i}].values: operator {rule.operator} {must} values"
    return ""


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
