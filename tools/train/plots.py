"""Small SVG charts, written by hand so that the report needs no plotting package."""

from html import escape
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 70, 150, 40, 50
COLOURS = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"]


def ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between the two."""
    rough = (high - low) / 5
    unit = 10.0 ** len(str(int(rough))) if rough >= 1 else 1.0
    while unit > rough:
        unit /= 10
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = int(low / step) + (1 if low > 0 and low % step else 0)
    return [first * step + i * step for i in range(12) if first * step + i * step <= high + 1e-9]


def bounds(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def chart(path: Path, title: str, x_label: str, y_label: str, series: dict[str, list[tuple[float, float]]]) -> None:
    """One line with marks per series; a series of one point is a mark with its name beside it."""
    points = [point for line in series.values() for point in line]
    (x0, x1), (y0, y1) = bounds([x for x, _ in points]), bounds([y for _, y in points])

    def at(x: float, y: float) -> tuple[float, float]:
        return (LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM))

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', f'<text x="{LEFT}" y="22" font-size="14">{escape(title)}</text>']
    for x in ticks(x0, x1):
        px = at(x, y0)[0]
        out += [f'<line x1="{px:.1f}" y1="{TOP}" x2="{px:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#ddd"/>',
                f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:.6g}</text>']
    for y in ticks(y0, y1):
        py = at(x0, y)[1]
        out += [f'<line x1="{LEFT}" y1="{py:.1f}" x2="{WIDTH - RIGHT}" y2="{py:.1f}" stroke="#ddd"/>',
                f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{y:.6g}</text>']
    out += [f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
            f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})">{escape(y_label)}</text>']
    for colour, (name, line) in zip(COLOURS * 8, series.items()):
        placed = [at(*point) for point in line]
        if len(placed) > 1:
            path_data = " ".join(f"{px:.1f},{py:.1f}" for px, py in placed)
            out.append(f'<polyline points="{path_data}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{colour}"/>' for px, py in placed]
        px, py = placed[-1]
        out.append(f'<text x="{px + 8:.1f}" y="{py + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    path.write_text("\n".join(out) + "\n</svg>\n")
