"""Draws what a long queue costs as SVG: rate and resident memory against the messages in the queue."""
from plot import CEILING, COLOURS, text

WIDTH, HEIGHT, LEFT, TOP, GAP = 330, 200, 60, 52, 110
PLAIN, OURS, LIGHT = COLOURS[0], COLOURS[1], COLOURS[2]


def draw(rows, empty):
    """`rows`: results by size; `empty`: the rate with an empty queue."""
    width, height = LEFT + 2 * WIDTH + GAP + 30, TOP + HEIGHT + 48
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
             'font-family="sans-serif" font-size="11" fill="#222222">', f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    sizes = [row["size"] for row in rows]
    rate = [("delivered", OURS, [row["rate"] for row in rows])]
    parts += panel(LEFT, "messages delivered per second; line: live, with an empty queue", sizes, rate, empty)
    memory = [("at rest", PLAIN, [row["rest"] for row in rows]), ("at most", LIGHT, [row["peak"] for row in rows])]
    parts += panel(LEFT + WIDTH + GAP, "resident memory, MiB", sizes, memory)
    return "\n".join(parts + ["</svg>"]) + "\n"


def panel(left, title, sizes, lines, mark=0):
    """Sizes stand side by side: they differ by powers of ten, and one is zero."""
    most = max(max(value for _, _, values in lines for value in values), mark) * 1.15 or 1
    x = lambda at: left + WIDTH * (at + 0.5) / len(sizes)
    y = lambda value: TOP + HEIGHT - HEIGHT * value / most
    parts = [text(left, 18, title, weight="bold"), f'<path d="M{left} {TOP}V{TOP + HEIGHT}H{left + WIDTH}" fill="none" stroke="{CEILING}"/>']
    parts += [text(x(at), TOP + HEIGHT + 16, f"{size:,}", anchor="middle") for at, size in enumerate(sizes)]
    parts += [text(left - 6, y(most * step / 4) + 4, f"{most * step / 4:,.0f}", anchor="end") for step in range(5)]
    parts.append(text(left + WIDTH / 2, TOP + HEIGHT + 36, "messages in the queue", anchor="middle"))
    if mark:
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" stroke="{CEILING}" stroke-dasharray="4 3"/>')
    for place, (name, colour, values) in enumerate(lines):
        parts.append(f'<rect x="{left + 80 * place}" y="28" width="11" height="11" fill="{colour}"/>')
        parts.append(text(left + 80 * place + 16, 38, name))
        points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in enumerate(values))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        # The label of the upper line above, that of the lower one below.
        off = -8 if place == len(lines) - 1 else 16
        for at, value in enumerate(values):
            parts.append(f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>')
            parts.append(text(x(at), y(value) + off, f"{value:,.0f}", anchor="middle"))
    return parts
