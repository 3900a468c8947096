"""An offline page with surfaces one can turn: one file, no network, no library."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import xarray

from landscape import plotting
from landscape.store.files import write_whole
from landscape.surface.pictures import provenance, scale


def write(
    surfaces: Sequence[xarray.Dataset], path: Path | str, *, variable: str = "loss", level: float | None = None
) -> Path:
    """Write a page that shows planes beside each other on one scale, turned together by dragging.

    Every variable over the plane can be chosen; values appear under the pointer; `provenance` stands below.
    """
    colors = matplotlib.colormaps[plotting.SEQUENTIAL](np.linspace(0, 1, 64))[:, :3]
    names = [
        str(name)
        for name in surfaces[0].data_vars
        if surfaces[0][name].dims == ("alpha", "beta") and all(name in surface for surface in surfaces)
    ]
    names = [variable, *[name for name in names if name != variable]]
    variables = {}
    for name in names:
        pooled = np.concatenate([surface[name].values.ravel() for surface in surfaces])
        if not np.isfinite(pooled).any():
            continue
        norm, _ = scale(surfaces, name, level if name == variable else None)
        facts = surfaces[0][name].attrs
        unit = facts.get("units", "1")
        variables[name] = {
            "low": norm.vmin,
            "high": norm.vmax,
            "log": type(norm).__name__ == "LogNorm",
            "label": facts.get("long_name", name) + ("" if unit in ("", "1") else f" ({unit})"),
        }
    data = {
        "colors": [f"rgb({r},{g},{b})" for r, g, b in (colors * 255).round().astype(int).tolist()],
        "variables": variables,
        "surfaces": [
            {
                "name": str(surface.attrs.get("name", f"surface {place + 1}")),
                "alpha": surface["alpha"].values.tolist(),
                "beta": surface["beta"].values.tolist(),
                "values": {name: _rounded(surface[name].values) for name in variables},
            }
            for place, surface in enumerate(surfaces)
        ],
    }
    title = "Loss surface: " + ", ".join(surface["name"] for surface in data["surfaces"])  # type: ignore[index]
    origin = json.dumps(provenance(surfaces), indent=1)
    page = _PAGE.replace("@TITLE@", html.escape(title)).replace("@ORIGIN@", html.escape(origin))
    # A closing tag inside a string would end the script.
    page = page.replace("@DATA@", json.dumps(data, allow_nan=False).replace("</", "<\\/"))
    path = Path(path)
    write_whole(path, page.encode())
    return path


def _rounded(values: np.ndarray) -> list[list[float | None]]:
    """Seven digits, which is what float32 knows; None where not finite."""
    return [[float(f"{value:.7g}") if math.isfinite(value) else None for value in row] for row in values.tolist()]


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 76rem; padding: 0 1rem; color: #222;
  background: #fff; }
h1 { font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
#panels { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 20rem; min-width: 0; max-width: 36rem; }
figcaption { font-weight: 600; font-size: .95rem; overflow-wrap: anywhere; }
canvas { width: 100%; aspect-ratio: 1 / .8; touch-action: none; cursor: grab; display: block; }
#bar { height: .9rem; max-width: 24rem; border-radius: 2px; }
#ends { display: flex; justify-content: space-between; max-width: 24rem; font-size: .85rem; }
#reading { min-height: 1.5em; font-variant-numeric: tabular-nums; }
label { margin-right: 1.5rem; white-space: nowrap; }
pre { font-size: .75rem; white-space: pre-wrap; overflow-wrap: anywhere; color: #555; }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p><label>quantity <select id="variable"></select></label>
<label><input type="checkbox" id="above"> from above</label>
Drag to turn, wheel or pinch to zoom, point to read.</p>
<div id="panels"></div>
<p id="reading"></p>
<div id="bar"></div><div id="ends"><span id="low"></span><span id="what"></span><span id="high"></span></div>
<details><summary>where this comes from</summary><pre>@ORIGIN@</pre></details>
<script>
"use strict";
const data = @DATA@;
const view = { turn: -0.65, tilt: 0.55, zoom: 1 };
const select = document.getElementById("variable"), above = document.getElementById("above");
const reading = document.getElementById("reading");
for (const [name, facts] of Object.entries(data.variables)) select.add(new Option(facts.label, name));
let variable = select.value;
const number = v => Number(v.toPrecision(4)).toString();
function share(v) {
  const f = data.variables[variable];
  const t = f.log ? Math.log(v / f.low) / Math.log(f.high / f.low) : (v - f.low) / (f.high - f.low);
  return Math.min(1, Math.max(0, t));
}
const color = t => data.colors[Math.min(data.colors.length - 1, Math.floor(t * data.colors.length))];
// x, y in [-1, 1], height t in [0, 1]; an orthographic view.
function project(x, y, t, size) {
  const c = Math.cos(view.turn), s = Math.sin(view.turn), a = x * c - y * s, b = x * s + y * c;
  const h = (t - 0.5) * 1.1, ct = Math.cos(view.tilt), st = Math.sin(view.tilt);
  return [size.w / 2 + a * size.k, size.h / 2 - (h * ct + b * st) * size.k, b * ct - h * st];
}
function unit(axis, i) { const n = axis.length - 1; return 2 * (axis[i] - axis[0]) / (axis[n] - axis[0]) - 1; }
function draw(panel) {
  const { canvas, surface } = panel, ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio);
  const g = canvas.getContext("2d"); g.scale(ratio, ratio);
  const size = { w: box.width, h: box.height, k: Math.min(box.width, box.height * 1.15) * 0.31 * view.zoom };
  const values = surface.values[variable], A = surface.alpha, B = surface.beta, faces = [];
  panel.points = [];
  const spot = values.map((row, i) => row.map((v, j) => {
    if (v === null) return null;
    const p = project(unit(A, i), unit(B, j), share(v), size);
    panel.points.push([p[0], p[1], i, j, p[2]]);
    return p;
  }));
  for (let i = 0; i + 1 < A.length; i++) for (let j = 0; j + 1 < B.length; j++) {
    const p = [spot[i][j], spot[i + 1][j], spot[i + 1][j + 1], spot[i][j + 1]];
    if (p.includes(null)) continue;
    const around = [values[i][j], values[i + 1][j], values[i + 1][j + 1], values[i][j + 1]];
    const t = around.reduce((sum, v) => sum + share(v), 0) / 4;
    faces.push([(p[0][2] + p[1][2] + p[2][2] + p[3][2]) / 4, p, t]);
  }
  faces.sort((a, b) => b[0] - a[0]);
  g.lineJoin = "round";
  frame(g, surface, size, true);
  for (const [, p, t] of faces) {
    g.beginPath(); g.moveTo(p[0][0], p[0][1]);
    for (let n = 1; n < 4; n++) g.lineTo(p[n][0], p[n][1]);
    g.closePath(); g.fillStyle = color(t); g.fill();
    g.strokeStyle = "rgba(0,0,0,.28)"; g.lineWidth = 0.5; g.stroke();
  }
  frame(g, surface, size, false);
}
function frame(g, surface, size, floor) {
  const A = surface.alpha, B = surface.beta, f = data.variables[variable];
  const at = (x, y, t) => project(x, y, t, size);
  g.strokeStyle = "#999"; g.fillStyle = "#333"; g.lineWidth = 1;
  g.font = "12px system-ui, sans-serif"; g.textAlign = "center";
  if (floor) {
    g.beginPath();
    for (const [x, y] of [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) {
      const p = at(x, y, 0);
      g.lineTo(p[0], p[1]);
    }
    g.stroke();
    return;
  }
  const text = (s, p) => g.fillText(s, p[0], p[1]);
  // Labels go to the two edges of the floor that face the viewer, the height's scale to the leftmost edge.
  const y = at(0, -1, 0)[2] < at(0, 1, 0)[2] ? -1 : 1, x = at(-1, 0, 0)[2] < at(1, 0, 0)[2] ? -1 : 1;
  const lastA = number(A[A.length - 1]), lastB = number(B[B.length - 1]);
  text(number(A[0]), at(-1, 1.14 * y, -0.04)); text("α", at(0, 1.2 * y, -0.06)); text(lastA, at(1, 1.14 * y, -0.04));
  text(number(B[0]), at(1.16 * x, -1, -0.04)); text("β", at(1.22 * x, 0, -0.06)); text(lastB, at(1.16 * x, 1, -0.04));
  if (view.tilt > 1.4) return;
  const left = [[-1, -1], [1, -1], [1, 1], [-1, 1]].reduce((a, b) => at(...a, 0)[0] < at(...b, 0)[0] ? a : b);
  const bottom = at(...left, 0), top = at(...left, 1);
  g.beginPath(); g.moveTo(bottom[0], bottom[1]); g.lineTo(top[0], top[1]); g.stroke();
  g.textAlign = "right";
  g.fillText(number(f.low), bottom[0] - 5, bottom[1] + 4);
  g.fillText(number(f.high), top[0] - 5, top[1] + 4);
}
const panels = data.surfaces.map(surface => {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const canvas = document.createElement("canvas");
  caption.textContent = surface.name; figure.append(caption, canvas);
  document.getElementById("panels").append(figure);
  const panel = { canvas, surface, points: [] }, down = new Map();
  let spread = 0;
  canvas.addEventListener("pointerdown", e => {
    canvas.setPointerCapture(e.pointerId);
    down.set(e.pointerId, [e.clientX, e.clientY]);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, e => {
    down.delete(e.pointerId);
    spread = 0;
  });
  canvas.addEventListener("pointermove", e => {
    const before = down.get(e.pointerId);
    if (!before) { read(panel, e); return; }
    down.set(e.pointerId, [e.clientX, e.clientY]);
    if (down.size === 2) {
      const [p, q] = [...down.values()], now = Math.hypot(p[0] - q[0], p[1] - q[1]);
      if (spread) zoom(now / spread);
      spread = now;
      return;
    }
    above.checked = false;
    view.turn += (e.clientX - before[0]) * 0.01;
    view.tilt = Math.min(Math.PI / 2, Math.max(0, view.tilt + (e.clientY - before[1]) * 0.01));
    all();
  });
  canvas.addEventListener("wheel", e => { e.preventDefault(); zoom(Math.exp(-e.deltaY * 0.001)); }, { passive: false });
  return panel;
});
function zoom(factor) { view.zoom = Math.min(5, Math.max(0.4, view.zoom * factor)); all(); }
function read(panel, e) {
  const box = panel.canvas.getBoundingClientRect(), x = e.clientX - box.left, y = e.clientY - box.top;
  let best = null, least = 15 * 15;
  for (const p of panel.points) {
    const d = (p[0] - x) ** 2 + (p[1] - y) ** 2;
    if (d < least) { least = d; best = p; }
  }
  const s = panel.surface;
  reading.textContent = best ? s.name + ": α = " + number(s.alpha[best[2]]) + ", β = " + number(s.beta[best[3]]) + ", "
    + data.variables[variable].label + " = " + number(s.values[variable][best[2]][best[3]]) : "";
}
function all() {
  const f = data.variables[variable];
  document.getElementById("bar").style.background = "linear-gradient(to right," + data.colors.join(",") + ")";
  document.getElementById("low").textContent = number(f.low);
  document.getElementById("high").textContent = number(f.high);
  document.getElementById("what").textContent = f.label + (f.log ? ", log scale" : "");
  for (const panel of panels) draw(panel);
}
select.addEventListener("change", () => { variable = select.value; all(); });
above.addEventListener("change", () => {
  view.tilt = above.checked ? Math.PI / 2 : 0.55;
  view.turn = above.checked ? 0 : -0.65;
  all();
});
window.addEventListener("resize", all);
all();
</script>
</body>
</html>
"""
