"""The page that shows a build's report: one file without scripts or outside resources."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Build report</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; color: #1c2430; background: #f6f7f9; margin: 0; }
  main { max-width: 70rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
  h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
  .faint { color: #697586; } code { font-size: .85em; }
  .cards { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1.25rem; }
  .card { background: #fff; border: 1px solid #e3e7ec; border-radius: 8px; padding: .7rem 1rem; }
  .card b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
  table { border-collapse: collapse; width: 100%; background: #fff; border: 1px solid #e3e7ec; }
  th, td { text-align: left; padding: .4rem .7rem; border-bottom: 1px solid #eef1f4; }
  th { font-weight: 600; background: #fbfcfd; } td { vertical-align: top; }
  .n { text-align: right; font-variant-numeric: tabular-nums; }
  details { margin-top: .2rem; } summary { cursor: pointer; color: #3a5bcc; }
  li { font-size: .85rem; overflow-wrap: anywhere; }
  .bar { display: inline-block; height: .7rem; background: #7b93e6; border-radius: 2px; }
  .track { display: inline-block; width: 6rem; background: #eef1f4; border-radius: 2px;
    line-height: 0; }
  .histograms { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr));
    gap: 1rem; }
  figure { margin: 0; padding: .7rem 1rem; background: #fff; border: 1px solid #e3e7ec;
    border-radius: 8px; }
  figcaption { font-weight: 600; margin-bottom: .4rem; }
  .line { display: grid; grid-template-columns: 6.5rem 1fr 4rem; gap: .6rem;
    align-items: center; font-size: .85rem; }
  .line .track { width: 100%; }
  a { color: #3a5bcc; } tr:target { background: #fff8dc; }
</style>
</head>
<body><main>
<h1>Build report</h1>
<div class="faint">plan <code>{{ report.plan[:16] }}</code></div>
<div class="cards">
  <div class="card"><b>{{ "{:,}".format(report.shards.shards) }}</b>shards</div>
  <div class="card"><b>{{ "{:,}".format(report.shards.samples) }}</b>samples</div>
  <div class="card"><b>{{ "{:,}".format(report.shards.rounds) }}</b>rounds</div>
  <div class="card"><b>{{ "{:,}".format(report.shards.images) }}</b>images</div>
  <div class="card"><b>{{ "{:,.1f}".format(report.shards.bytes / 1e6) }} MB</b>on disk</div>
  <div class="card"><b>{{ "{:,.1f}".format(report.shards.repeated_image_bytes / 1e6) }} MB</b>of
    images stored again</div>
</div>

<h2>Every row accounted for</h2>
<table>
<tr><th>source</th><th class="n">rows</th><th class="n">rejected rows</th><th class="n">records</th>
<th class="n">rejected later</th><th class="n">used</th><th class="n">pairs read</th>
<th class="n">pairs used</th></tr>
{% for name, one in report.sources.items() %}
{% set rows_out = one.converted.rejected_rows.counts.values() | sum %}
{% set later_out = one.rejected_later.counts.values() | sum %}
<tr><td>{{ name }}</td>
<td class="n">{{ "{:,}".format(one.converted["rows"]) }}</td>
<td class="n">{% if rows_out %}<a href="#row-{{ name }}">{{ "{:,}".format(rows_out) }}</a>
{%- else %}0{% endif %}</td>
<td class="n">{{ "{:,}".format(one.converted.records) }}</td>
<td class="n">{% if later_out %}<a href="#record-{{ name }}">{{ "{:,}".format(later_out) }}</a>
{%- else %}0{% endif %}</td>
<td class="n"><b>{{ "{:,}".format(one.used_records) }}</b></td>
<td class="n">{{ "{:,}".format(one.converted.pairs) }}</td>
<td class="n">{{ "{:,}".format(one.used_pairs) }}</td></tr>
{% endfor %}
</table>
<p class="faint">rows = records + rejected rows; records = used + rejected later. A rejected number
leads to its reasons.</p>

<h2>What the shards hold</h2>
<table>
<tr><th>source</th><th>split</th><th class="n">joined up to</th><th class="n">limit</th>
<th class="n">samples</th><th class="n">records</th><th class="n">rounds</th>
<th class="n">images</th><th class="n">text tokens</th><th>share of tokens</th></tr>
{% set tokens = [1, report.blend | sum(attribute="text_tokens")] | max %}
{% for line in report.blend %}
<tr><td>{{ line.source }}</td><td>{{ line.split }}</td>
<td class="n">{{ line.concatenate }}</td>
<td class="n">{{ "{:,}".format(line.limit) if line.limit else "" }}</td>
{% for name in ("samples", "records", "rounds", "images", "text_tokens") %}
<td class="n">{{ "{:,}".format(line[name]) }}</td>
{% endfor %}
<td><span class="track"><span class="bar" style="width:
{{ "%.1f" | format(100 * line.text_tokens / tokens) }}%"></span></span>
{{ "%.1f" | format(100 * line.text_tokens / tokens) }}%</td></tr>
{% endfor %}
</table>

<h2>What was rejected, and why</h2>
{% if rejections %}
<table>
<tr><th>source</th><th>reason</th><th class="n">count</th><th>what it means</th></tr>
{% for line in rejections %}
<tr{% if loop.first or loop.previtem.source != line.source or loop.previtem.kind != line.kind %}
 id="{{ line.kind }}-{{ line.source }}"{% endif %}>
<td>{{ line.source }}</td><td><code>{{ line.reason }}</code></td>
<td class="n">{{ "{:,}".format(line["count"]) }} {{ line.kind }}{{ "s" if line["count"] != 1 }}</td>
<td>{{ line.meaning }}
{% if line.examples %}<details><summary>examples</summary><ul>
{% for example in line.examples %}<li>{{ example }}</li>{% endfor %}
</ul></details>{% endif %}</td></tr>
{% endfor %}
</table>
{% else %}<p class="faint">Nothing.</p>{% endif %}

{% if repairs %}
<h2>Image ids that were found by a rule</h2>
<table>
<tr><th>source</th><th>rule</th><th class="n">images</th></tr>
{% for name, rule, count in repairs %}
<tr><td>{{ name }}</td><td><code>{{ rule }}</code></td>
<td class="n">{{ "{:,}".format(count) }}</td></tr>
{% endfor %}
</table>
{% endif %}

{% if marks %}
<h2>Marked records</h2>
<table>
<tr><th>source</th><th>mark</th><th class="n">records</th></tr>
{% for name, mark, count in marks %}
<tr><td>{{ name }}</td><td><code>{{ mark }}</code></td>
<td class="n">{{ "{:,}".format(count) }}</td></tr>
{% endfor %}
</table>
{% endif %}

<h2>Samples and images</h2>
<div class="histograms">
{% for title, counts in report.histograms.items() if counts %}
{% set most = counts.values() | max %}
<figure><figcaption>{{ title }}</figcaption>
{% for value, count in counts.items() %}
<div class="line"><span class="n">{{ value }}</span>
<span class="track"><span class="bar" style="width:
{{ "%.1f" | format(100 * count / most) }}%"></span></span>
<span class="n">{{ "{:,}".format(count) }}</span></div>
{% endfor %}</figure>
{% endfor %}
</div>

<h2>Licences</h2>
<table>
{% for name, licence in report.licences.items() %}
<tr><td>{{ name }}</td><td>{{ licence }}</td></tr>
{% endfor %}
</table>
</main></body>
</html>
"""
