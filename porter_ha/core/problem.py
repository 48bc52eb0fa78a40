"""What is wrong with a field that a user wrote, and how two objects that contradict each other are put in order."""

from porter_ha.model.objects import ObjectMeta


class Problem(Exception):
    """What is wrong with a field: its path, and what would be right."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")


def age(meta: ObjectMeta) -> tuple[str, str]:
    """Sorts objects: of two that contradict each other the older one wins, whatever order they are seen in."""
    return (meta.creation_timestamp, meta.name)
