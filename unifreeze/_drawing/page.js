"use strict";
// The page works without this script, for the first phase and without names of parameters.
// Everything that a user has named goes into the page by textContent, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const STYLES = ["uf-f", "uf-h", "uf-t", "uf-n"]; // by the numbers of looks in data.stories
const LABELS = data.looks;
const ROWS_SHOWN = 200; // parameters in the results of a search
const [PATH, NAME, KIND, SHAPE, VALUES, STORY] = [0, 1, 2, 3, 4, 5];
const $ = (selector) => document.querySelector(selector);
const maps = [...document.querySelectorAll(".map svg")].map((svg) => ({
  svg,
  leaves: [...svg.querySelector(".leaves").children],
  contents: data.leaves[svg.dataset.layout],
}));
let phase = 0;
let chosen = -1; // number of the parameter that is chosen in the map

const look = (parameter) => data.stories[data.parameters[parameter][STORY]].looks[phase];
const reason = (parameter) => data.stories[data.parameters[parameter][STORY]].reasons[phase];
const number = (value) => value.toLocaleString("en-US");
const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

function create(name, style, text) {
  const element = document.createElement(name);
  if (style) element.className = style;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Rows ---------------------------------------------------------------------------------------

function decisionCell(style, text) {
  const cell = create("span", "reason");
  cell.append(create("span", `square uf-square ${style}`), text);
  return cell;
}

function parameterRow(parameter) {
  const facts = data.parameters[parameter];
  const row = create("div", "row");
  row.dataset.parameter = parameter;
  const name = create("span", "name", facts[PATH]);
  name.append(create("small", "", `${facts[NAME]} · ${facts[KIND]}`));
  row.append(
    name,
    decisionCell(STYLES[look(parameter)], reason(parameter)),
    create("span", "shape soft", facts[SHAPE]),
    create("span", "number", number(facts[VALUES])),
  );
  return row;
}

function fillUnit(details) {
  const [first, end] = data.units[details.dataset.unit];
  details.querySelectorAll("div.row").forEach((row) => row.remove());
  if (!details.open) return;
  const rows = [];
  for (let parameter = first; parameter < end; parameter += 1) rows.push(parameterRow(parameter));
  details.append(...rows);
}

function summarise(details) {
  const [first, end] = data.units[details.dataset.unit];
  const values = [0, 0, 0, 0];
  let trainable = 0;
  for (let parameter = first; parameter < end; parameter += 1) {
    values[look(parameter)] += data.parameters[parameter][VALUES];
    trainable += look(parameter) >= 2;
  }
  const all = end - first;
  const said =
    trainable === all ? "trainable" : trainable ? `${number(trainable)} of ${number(all)} trainable` : "frozen";
  const style = STYLES[values.indexOf(Math.max(...values))];
  details.querySelector("summary > .reason").replaceWith(decisionCell(style, said));
}

// The map ------------------------------------------------------------------------------------

function paint() {
  for (const { svg, leaves, contents } of maps) {
    const hatches = svg.querySelector(".hatches");
    const held = [];
    leaves.forEach((leaf, at) => {
      const style = data.stories[contents[at][1]].looks[phase];
      leaf.setAttribute("class", STYLES[style] + (leaf.classList.contains("hit") ? " hit" : ""));
      if (style === 1) {
        const lines = leaf.cloneNode(false);
        lines.setAttribute("class", "");
        lines.setAttribute("fill", "url(#uf-hatched)");
        lines.setAttribute("pointer-events", "none");
        held.push(lines);
      }
    });
    hatches.replaceChildren(...held);
  }
}

function describe(at, contents) {
  const [path, story, parameters] = contents[at];
  const values = parameters.reduce((sum, parameter) => sum + data.parameters[parameter][VALUES], 0);
  const { looks, reasons } = data.stories[story];
  const several = new Set(parameters.map((parameter) => reason(parameter))).size > 1;
  const about = $(".about");
  about.replaceChildren(create("strong", "", path || "(model)"));
  about.append(
    ` · ${counted(parameters.length, "parameter")}, ${counted(values, "value")} · ${LABELS[looks[phase]]}`,
    create("br"),
    create("span", "soft", several ? "several rules decided; see below" : reasons[phase]),
  );
}

function choose(at, map) {
  chosen = map.contents[at][2][0];
  const mark = map.svg.querySelector(".chosen");
  for (const side of ["x", "y", "width", "height"]) mark.setAttribute(side, map.leaves[at].getAttribute(side));
  describe(at, map.contents);
}

const visible = () => maps.find(({ svg }) => svg.getBoundingClientRect().width > 0);

function leafOf(parameter, map) {
  return map.contents.findIndex((content) => content[2].includes(parameter));
}

function unitOf(parameter) {
  return data.units.findIndex(([first, end]) => first <= parameter && parameter < end);
}

function move(key) {
  const map = visible();
  const last = map.contents.length - 1;
  const at = chosen < 0 ? -1 : leafOf(chosen, map);
  const unit = at < 0 ? -1 : unitOf(map.contents[at][2][0]);
  const inUnit = (wanted) => map.contents.findIndex((content) => unitOf(content[2][0]) === wanted);
  const places = {
    ArrowRight: () => Math.min(at + 1, last),
    ArrowLeft: () => Math.max(at - 1, 0),
    ArrowDown: () => Math.max(inUnit(Math.min(unit + 1, data.units.length - 1)), 0),
    ArrowUp: () => Math.max(inUnit(Math.max(unit - 1, 0)), 0),
    Home: () => 0,
    End: () => last,
  };
  if (!(key in places)) return false;
  choose(places[key](), map);
  return true;
}

function openChosen() {
  if (chosen < 0) return;
  const details = document.querySelectorAll("details.unit")[unitOf(chosen)];
  search("");
  details.open = true;
  fillUnit(details);
  const row = details.querySelector(`[data-parameter="${chosen}"]`);
  row.classList.add("chosen");
  row.tabIndex = -1;
  row.focus();
}

// Search -------------------------------------------------------------------------------------

function search(text) {
  const field = $(".search");
  if (field.value !== text) field.value = text;
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const searching = words.length > 0;
  const matches = [];
  data.parameters.forEach((facts, parameter) => {
    const names = `${facts[PATH]} ${facts[NAME]} ${facts[KIND]}`.toLowerCase();
    if (searching && words.every((word) => names.includes(word))) matches.push(parameter);
  });
  $(".units").hidden = searching;
  $(".results").hidden = !searching;
  $(".results").replaceChildren(...matches.slice(0, ROWS_SHOWN).map(parameterRow));
  const more = matches.length > ROWS_SHOWN ? `, the first ${ROWS_SHOWN} are shown` : "";
  $(".found").textContent = searching
    ? `${number(matches.length)} of ${counted(data.parameters.length, "parameter")}${more}`
    : "";
  const wanted = new Set(matches);
  for (const { svg, leaves, contents } of maps) {
    svg.classList.toggle("searching", searching);
    leaves.forEach((leaf, at) => leaf.classList.toggle("hit", contents[at][2].some((p) => wanted.has(p))));
  }
}

// Phases -------------------------------------------------------------------------------------

function lines(list, texts) {
  list.replaceChildren(...texts.map((text) => create("li", "", text)));
}

function showColumn() {
  const timeline = $(".timeline");
  const window_ = timeline.getBoundingClientRect();
  const column = $(".uf-cover.now").getBoundingClientRect();
  const left = $(".timeline .labels").getBoundingClientRect().right; // the labels stay in view
  if (column.left < left || column.right > window_.right) {
    timeline.scrollLeft += (column.left + column.right - left - window_.right) / 2;
  }
}

function enter(wanted) {
  phase = Math.max(0, Math.min(wanted, data.phases.length - 1));
  const now = data.phases[phase];
  const slider = $("#phase");
  if (slider) {
    slider.value = phase;
    slider.setAttribute("aria-valuetext", now.said);
    $(".phases output").textContent = now.said;
    document.querySelectorAll(".uf-cover").forEach((cover, at) => cover.classList.toggle("now", at === phase));
    showColumn();
  }
  $(".counts").textContent = now.counts;
  lines($(".rules"), now.rules);
  lines($(".notes"), now.notes);
  $(".notes-title").hidden = !now.notes.length;
  paint();
  document.querySelectorAll("details.unit").forEach((details) => {
    summarise(details);
    fillUnit(details);
  });
  search($(".search").value);
  const map = visible();
  if (chosen >= 0 && map) choose(leafOf(chosen, map), map);
}

// Events -------------------------------------------------------------------------------------

maps.forEach((map) => {
  const leaves = map.svg.querySelector(".leaves");
  leaves.addEventListener("pointerover", (event) => {
    const at = map.leaves.indexOf(event.target);
    if (at >= 0) describe(at, map.contents);
  });
  leaves.addEventListener("click", (event) => {
    const at = map.leaves.indexOf(event.target);
    if (at >= 0) choose(at, map);
  });
  leaves.addEventListener("dblclick", openChosen);
});
$(".map").addEventListener("keydown", (event) => {
  if (event.key === "Enter") openChosen();
  else if (!move(event.key)) return;
  event.preventDefault();
});
document.querySelectorAll("details.unit").forEach((details) => {
  details.addEventListener("toggle", () => {
    // Rows that are there already may hold the focus.
    if (!details.open || !details.querySelector("div.row")) fillUnit(details);
  });
});
let waiting = 0;
$(".search").addEventListener("input", (event) => {
  clearTimeout(waiting);
  waiting = setTimeout(() => search(event.target.value), 60);
});
document.addEventListener("keydown", (event) => {
  const field = $(".search");
  if (event.key === "/" && event.target !== field) {
    event.preventDefault();
    field.focus();
  } else if (event.key === "Escape" && event.target === field) {
    search("");
  }
});
if ($("#phase")) {
  $("#phase").addEventListener("input", (event) => enter(Number(event.target.value)));
  $(".timeline").addEventListener("click", (event) => {
    const columns = [...document.querySelectorAll(".uf-cover")].map((cover) => cover.getBoundingClientRect());
    const at = columns.findIndex(({ left, right }) => left <= event.clientX && event.clientX < right);
    if (at >= 0) enter(at);
  });
}
enter(data.start);
document.documentElement.dataset.ready = "true";
