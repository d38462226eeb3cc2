"""The page that `featot.report` fills in, as a Jinja template that escapes everything."""

TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="featot {{ version }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} – featot</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1d1f21; --faint: #6a7075; --line: #d9dcdf; --box: #f4f5f6; }
@media (prefers-color-scheme: dark) {
  :root { --page: #17191b; --ink: #e6e7e8; --faint: #989ea3; --line: #383c40; --box: #212427; }
}
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --faint: #444; --line: #bbb; --box: #fff; }
  figure, table, pre { break-inside: avoid; }
  h2 { break-after: avoid; }
}
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
p, figcaption { color: var(--faint); font-size: .9rem; margin: .4rem 0; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.2rem; align-items: start; }
figure { margin: 0; }
figure > img, figure > svg { display: block; width: 100%; height: auto; }
figure > img.pixels, svg image { image-rendering: pixelated; }
svg text { font-family: system-ui, sans-serif !important; }
img.ramp { display: inline-block; width: 8rem; height: .7rem; vertical-align: middle; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { font-weight: 500; white-space: nowrap; }
pre { background: var(--box); border: 1px solid var(--line); padding: .7rem; white-space: pre-wrap;
  overflow-wrap: anywhere; user-select: all; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<p>A synthesis of {{ size }} pixels by featot {{ version }}
{%- if channels > 3 %}; of its {{ channels }} channels the first three are shown{% endif %}</p>
<pre title="one click selects all of it">{{ command }}</pre>

<div class="row">
<figure><img class="pixels" src="{{ exemplar }}" alt="the exemplar"><figcaption>Exemplar</figcaption></figure>
<figure>
<svg viewBox="0 0 {{ box[0] }} {{ box[1] }}" role="img" aria-label="the result">
<image id="result" href="{{ result }}" width="{{ box[0] }}" height="{{ box[1] }}" preserveAspectRatio="none"/></svg>
<figcaption>Result</figcaption>
</figure>
<figure>
<svg viewBox="0 0 {{ 2 * box[0] }} {{ 2 * box[1] }}" role="img" aria-label="the result, two by two">
{% for place in [(0, 0), (1, 0), (0, 1), (1, 1)] %}
<use href="#result" x="{{ place[0] * box[0] }}" y="{{ place[1] * box[1] }}"/>
{% endfor %}
</svg>
<figcaption>Result, 2×2
{%- if seams %}: it was not made to wrap along {{ seams | join(" and ") }}, seams are to be expected{% endif %}
</figcaption>
</figure>
</div>

<h2>Where its patches come from</h2>
<p>For each patch of {{ found.side }}×{{ found.side }} pixels
{%- if found.halvings %} (of images halved {{ found.halvings }}×){% endif %} of the result, the place of
the exemplar's nearest patch. Large areas that look like the legend are copied as they are:
{% if found.copied == found.copied %}
<strong>{{ "%.1f" | format(100 * found.copied) }} %</strong> of neighbouring patches come from neighbours.
{% else %}
the result is too small to say how much.
{% endif %}
</p>
<div class="row">
<figure><img class="pixels" src="{{ sources }}" alt="map of sources">
<figcaption>Result: each patch in the colour of its source</figcaption></figure>
<figure><img class="pixels" src="{{ legend }}" alt="legend of the map">
<figcaption>Legend: the exemplar's places</figcaption></figure>
<figure><img class="pixels" src="{{ usage }}" alt="usage of the exemplar">
<figcaption>How often the exemplar's patches there are the nearest, over the mean of all:
0 <img class="ramp" src="{{ ramp }}" alt=""> {{ most }}</figcaption></figure>
</div>
<div class="row">
<figure>{{ histogram }}
<figcaption>Usage of the exemplar, in cells of {{ found.cell }}×{{ found.cell }} patches: 1 is as often as the mean.
{{ "%.1f" | format(100 * found.unused) }} % is never the nearest.</figcaption></figure>
</div>

<h2>How it went</h2>
<div class="row">
<figure>{{ loss }}
<figcaption>The loss before each step</figcaption></figure>
{% if psi is not none %}
<figure>{{ psi }}
<figcaption>The standard deviation of ψ, the dual potential of each level</figcaption></figure>
{% else %}
<p>None of the losses has a ψ.</p>
{% endif %}
</div>

{% if scores %}
<h2>Scores</h2>
<table>
<tr><th>metric</th><th>result</th><th>exemplar itself</th></tr>
{% for name, mine, own in scores %}
<tr><th>{{ name }}</th><td>{{ mine }}</td><td>{{ own }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% for title, rows in tables.items() %}
<h2>{{ title }}</h2>
<table>
{% for key, value in rows.items() %}
<tr><th>{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
{% endfor %}
</body>
</html>
"""
