"""Draws results as SVG: for each cell a bar per server, the rate on the left, CPU time per message on the right."""
from html import escape

COLOURS = ["#b8b8b8", "#d9480f", "#7fa7c9", "#9bbf85", "#c9a0c9", "#d8b365"]
CEILING = "#444444"
BAR, GAP, HEAD, LABEL, WIDTH, SPACE = 13, 9, 64, 110, 330, 90


def draw(scenario, cells, names, medians, ceilings):
    """`names`: what each server is called, in order; `medians`: rows by (cell, server); `ceilings`: rates by cell."""
    rate = lambda row: row["rate"]
    cpu = lambda row: row["cpu"]
    step = len(names) * BAR + GAP
    height = HEAD + len(cells) * step + 16
    width = LABEL + 2 * (WIDTH + SPACE)
    rows = list(medians.values())
    left = Panel(LABEL, max([rate(row) for row in rows] + list(ceilings.values()), default=1))
    right = Panel(LABEL + WIDTH + SPACE, max([cpu(row) for row in rows], default=1))
    what = "delivered" if scenario == "relay" else "accepted"
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="11" fill="#222222">', f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    parts += legend(names)
    parts.append(text(left.x, HEAD - 12, f"messages {what} per second; line: generator straight into sink", weight="bold"))
    parts.append(text(right.x, HEAD - 12, "CPU ms per message, of the server", weight="bold"))
    for at, cell in enumerate(cells):
        top = HEAD + at * step
        parts.append(text(LABEL - 8, top + (step - GAP) / 2 + 4, cell, anchor="end"))
        if ceiling := ceilings.get(cell):
            x = left.x + left.length(ceiling)
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top - 2}" y2="{top + step - GAP + 1}" stroke="{CEILING}" stroke-width="1.5"/>')
        for place, name in enumerate(names):
            if row := medians.get((cell, name)):
                y, colour = top + place * BAR, COLOURS[place % len(COLOURS)]
                parts += left.bar(y, rate(row), f"{rate(row):,.0f}", colour)
                parts += right.bar(y, cpu(row), f"{cpu(row):.2f}", colour)
    return "\n".join(parts + ["</svg>"]) + "\n"


class Panel:
    """One scale of bars that begin at `x`."""

    def __init__(self, x, most):
        self.x, self.most = x, most or 1

    def length(self, value):
        return WIDTH * value / self.most

    def bar(self, y, value, label, colour):
        length = max(self.length(value), 0.5)
        return [f'<rect x="{self.x}" y="{y}" width="{length:.1f}" height="{BAR - 2}" fill="{colour}"/>',
                text(self.x + length + 4, y + BAR - 4, label, size=10)]


def legend(names):
    parts, x = [], 12
    for place, name in enumerate(names.values()):
        parts.append(f'<rect x="{x}" y="14" width="11" height="11" fill="{COLOURS[place % len(COLOURS)]}"/>')
        parts.append(text(x + 16, 24, name))
        x += 40 + 7 * len(name)
    return parts


def text(x, y, words, anchor="start", weight="normal", size=11):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" font-size="{size}">{escape(words)}</text>'
