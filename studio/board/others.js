/* For an adjudicator: what each rater has said, in words and as marks on the picture, without their names. */

import { button, div, make } from "../elements/shown.js";
import { CONFIDENCE, ranks, sideOf } from "./forms.js";
import { showDifference } from "./text.js";

const SPAN_FLAGS = ["significant", "laterality", "measurement"];

/** The section. `mark` shows a rater's regions on the picture, or none. */
export function others(task, mark) {
  const buttons = [];
  const toggle = (index) => {
    const on = buttons[index].getAttribute("aria-pressed") !== "true";
    buttons.forEach((one, i) => one?.setAttribute("aria-pressed", String(on && i === index)));
    mark(on ? task.others[index].regions : []);
  };
  const said = (answer, index) => {
    const name = make("h4", {}, `Rater ${index + 1}`);
    if (!answer.regions?.length) return make("li", {}, name, ...told(task, answer));
    buttons[index] = button("Show the marks", () => toggle(index), { "aria-pressed": "false" });
    return make("li", {}, name, ...told(task, answer), buttons[index]);
  };
  return make("section", { class: "ub-others" }, make("h3", {}, "What the raters said"),
    make("p", {}, `Why it is here: ${task.why}`), make("ul", {}, ...task.others.map(said)));
}

/** All that an answer holds. */
function told(task, answer) {
  const lines = [answer.cannot_judge && `Cannot judge: ${answer.cannot_judge}`, given(task, answer),
    answer.ranking?.length && `Ranking: ${ranks(task, answer.ranking)}`,
    answer.confidence && `Confidence: ${CONFIDENCE[answer.confidence - 1]}`, answer.comment && `Comment: ${answer.comment}`];
  return [...lines.filter(Boolean).map((line) => make("p", {}, line)), ...correction(task, answer),
    list("Errors in the text", (answer.spans ?? []).map((span) => error(task, span))),
    list("Marks on the picture", (answer.regions ?? []).map((region) => `${region.label}: ${place(region)}`))];
}

function given(task, { scores = {}, choices = {} }) {
  const name = (choice) => (typeof choice === "number" ? sideOf(task, choice) : choice.replace("_", " "));
  return [...Object.entries(scores).map(([criterion, score]) => `${criterion} ${score}`),
    ...Object.entries(choices).map(([criterion, choice]) => `${criterion}: ${name(choice)}`)].join(", ");
}

/** What was made of the text. */
function correction(task, { text }) {
  if (text == null) return [];
  if (text === task.outputs[0].text) return [make("p", {}, "The text as it is")];
  const place = make("p", { class: "ub-difference" });
  showDifference(place, task.outputs[0].text, text);
  return [place];
}

function error(task, span) {
  const flags = SPAN_FLAGS.filter((flag) => span[flag]);
  return [make("q", {}, task.outputs[0].text.slice(span.start, span.end)), ` ${[span.error, ...flags].join(", ")}`];
}

function list(name, entries) {
  if (!entries.length) return "";
  return div("ub-told", make("p", {}, `${name}:`), make("ol", {}, ...entries.map((entry) => make("li", {}, ...[entry].flat()))));
}

/** Where a region lies, in pixels. */
function place(region) {
  const at = (...numbers) => numbers.map(Math.round).join(", ");
  if (region.kind === "box") return `box from ${at(region.x0, region.y0)} to ${at(region.x1, region.y1)}`;
  if (region.kind === "point") return `point at ${at(region.x, region.y)}`;
  return region.kind === "brush" ? `brush from ${at(...region.points[0])}` : "mask";
}
