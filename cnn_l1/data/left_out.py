"""What cannot be read is refused, or left out and counted where a setting allows it."""

from typing import Any

from cnn_l1.data.origin import Origin


class LeftOut:
    """Counts what is left out, by reason, or raises at the first.

    Args:
        allowed: `data.skip_broken`.
        what: Plural of what is counted, e.g. `"images"`.
        setting: What an error names.
    """

    def __init__(self, allowed: bool, what: str, setting: str) -> None:
        self.allowed, self.what = allowed, what
        self.origin = Origin(setting)
        self.reasons: dict[str, list[str]] = {}

    def add(self, reason: str, expected: str, item: Any, received: str = "") -> None:
        """Leave one out.

        Args:
            reason: In short, e.g. `"broken"`.
            expected: What the error says was expected.
            item: The file or row.
            received: What came, for the error; with the item where it does not name it.

        Raises:
            ConfigError: If nothing may be left out.
        """
        if not self.allowed:
            told = received or str(item)
            if str(item) not in told:
                told = f"{item} ({received})"
            raise self.origin.error(
                expected, f"{told}; data.skip_broken: true leaves such {self.what} out"
            )
        self.reasons.setdefault(reason, []).append(str(item))

    def tell(self, total: int) -> None:
        """Print one line, if some are left out."""
        if self.reasons:
            count = sum(map(len, self.reasons.values()))
            parts = [f"{len(v)} {reason} (first: {v[0]})" for reason, v in self.reasons.items()]
            print(f"Left out: {count} of {total} {self.what}: {', '.join(parts)}")
