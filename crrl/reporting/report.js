// The report: plots by plotly, moving clips by skeleton.js.
"use strict";

const page = JSON.parse(document.getElementById("page").textContent);
const sets = page.sets.map(Clips);

function draw(id, plot, scrollZoom = false) {
  const modeBarButtons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];  // none that could send anything anywhere
  const options = { displaylogo: false, responsive: true, scrollZoom, modeBarButtons };
  return Plotly.newPlot(document.getElementById(id), plot.data, plot.layout, options);
}

function section(run, number) {
  const clips = sets[run.set], classes = run.classes;
  const part = (name) => document.getElementById(`${name}-${number}`);
  const color = (clip) => run.colors[run.labels[clip]];
  const side = (clip) => run.tested[clip] ? "test" : "training";

  function words(clip) {
    const told = run.tested[clip] && run.predicted;
    const right = told ? `taken for ${classes[run.predicted[clip]]}` : `${side(clip)} clip`;
    return [classes[run.labels[clip]], right, clips.packed.names[clip]];
  }
  function near(clip) {
    return run.neighbours[clip].map((other, rank) =>
      figure(clips, other, color(other), classes[run.labels[other]],
        `cosine ${run.cosines[clip][rank].toFixed(2)}`, clips.packed.names[other]));
  }
  function select(clip) {
    const chosen = figure(clips, clip, color(clip), ...words(clip));
    chosen.className = "chosen";
    show(part("neighbours"), [chosen, ...near(clip)]);
    part("neighbours-title").textContent = `Nearest training clips of this ${side(clip)} clip`;
  }

  if (run.confusion) draw(`confusion-${number}`, run.confusion);
  draw(`map-${number}`, run.map, true).then((plot) => {
    const canvas = part("hovered"), caption = part("hovered-words");
    plot.on("plotly_hover", (event) => {
      const clip = event.points[0].customdata;
      play(canvas, clips, clip, color(clip));
      caption.textContent = words(clip).join(" · ");
    });
    plot.on("plotly_click", (event) => select(event.points[0].customdata));
  });
  if (run.predicted) show(part("mistakes"), run.mistakes.map((clip) => {
    const pair = document.createElement("div");
    pair.className = "pair";
    const other = run.neighbours[clip][0];
    pair.append(figure(clips, clip, color(clip), ...words(clip)));
    if (other !== undefined) pair.append(
      figure(clips, other, color(other), classes[run.labels[other]], "nearest training clip",
        clips.packed.names[other]));
    return pair;
  }));
  if (run.recited) {
    const own = Clips(run.recited.own), made = Clips(run.recited.made);
    show(part("recited"), run.recited.clips.map((clip, place) => {
      const pair = document.createElement("div");
      pair.className = "pair";
      pair.append(
        figure(own, place, color(clip), classes[run.labels[clip]], "as the network sees it", clips.packed.names[clip]),
        figure(made, place, "#444", "recited", run.recited.direction));
      return pair;
    }));
  }
}

draw("losses", page.losses);
page.runs.forEach(section);
document.documentElement.dataset.ready = Math.round(performance.now());
