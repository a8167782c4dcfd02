"""What a run prints: a line per epoch."""


def format_row(row: dict[str, float]) -> str:
    """Return an epoch's row as a line: Epoch: 1, Train Loss: 0.2219, Train Accuracy: 94.51, ..."""
    places = {"epoch": 0, "loss": 4}
    words = []
    for column, value in row.items():
        if column != "lr":  # which metrics.csv has
            digits = places.get(column.split("_")[-1], 2)
            words.append(f"{column.replace('_', ' ').title()}: {value:.{digits}f}")
    return ", ".join(words)
