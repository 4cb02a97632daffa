/* <um-pick>: a point or a box on a picture. */

import { ARROWS, SLIP, far, make, div, button, Surface } from "./shown.js";

/** Pixel x covers x to x + 1, and x1 and y1 of a box lie outside of it, as in core.tasks.regions. */
export class Pick extends Surface {
  static exchanged = ["src", "alt", "width", "height"];
  static observedAttributes = [...Pick.exchanged, "modes", "strings"];
  found = { kind: "none" };

  build() {
    this.allowed = this.choices("modes", ["text", "point", "box"], ["point", "box"]);
    [this.outline, this.dot] = [div("um-box"), div("um-dot")];
    this.stage = this.makeSurface(make("img", { draggable: "false" }), this.say("picker"), this.outline, this.dot);
    const kinds = ["point", "box"].filter((kind) => this.allowed.includes(kind));
    this.hint.textContent = kinds.map((kind) => this.say(`${kind}Hint`)).join(" ");
    const clear = button(this.say("clear"), () => this.set({ kind: "none" }));
    return [this.stage, div("um-tools", clear, this.told), this.hint];
  }

  async load(changed) {
    if (changed.has("src") && this.found.kind !== "none") this.set({ kind: "none" }); // a mark belongs to its picture
    if (await this.loadPicture()) this.show(this.found);
  }

  /** The pixels that are spanned by two places, or by two of themselves. */
  box(one, other) {
    const from = this.pixel({ x: Math.min(one.x, other.x), y: Math.min(one.y, other.y) });
    const to = this.pixel({ x: Math.max(one.x, other.x), y: Math.max(one.y, other.y) });
    return { kind: "box", x0: from.x, y0: from.y, x1: to.x + 1, y1: to.y + 1 };
  }

  set(found) {
    this.show(found);
    this.emit(found);
  }

  /** Marks what is found, and says it in words unless it is still being drawn. */
  show(found, said = true) {
    this.found = found;
    const words = found.kind === "none" && this.allowed.includes("text") ? "textOnly" : found.kind;
    if (said) this.told.textContent = this.say(words, found);
    this.layout();
  }

  layout() {
    super.layout();
    const { kind, x, y, x0, y0, x1, y1 } = this.columns ? this.found : {};
    this.dot.hidden = this.outline.hidden = true;
    if (kind === "point") this.place(this.dot, x + 0.5, y + 0.5);
    if (kind === "box") this.place(this.outline, x0, y0, x1 - x0, y1 - y0);
  }

  press(event) {
    this.cursor = null;
    this.from = { event, before: this.found };
  }

  move(event) {
    if (!this.from || !this.columns || !this.allowed.includes("box") || far(this.from.event, event) <= SLIP) return;
    this.show(this.box(this.at(this.from.event), this.at(event)), false);
  }

  release(event) {
    if (!this.from || !this.columns) return;
    const { event: start, before } = this.from;
    this.from = null;
    if (event.type === "pointercancel") this.show(before);
    else if (this.found !== before) this.set(this.found);
    else if (this.allowed.includes("point")) this.set({ kind: "point", ...this.pixel(this.at(start)) });
  }

  key(event) {
    if (!this.columns) return;
    if (event.key in ARROWS) {
      const from = this.steer(event);
      this.anchor = event.shiftKey ? this.anchor ?? from : null;
      if (this.anchor && this.allowed.includes("box")) {
        this.show(this.box(this.anchor, this.cursor));
        this.emitSoon(() => this.found);
      }
    } else if (event.key === "Enter" && this.cursor && this.allowed.includes("point")) {
      this.set({ kind: "point", ...this.cursor });
    } else if (["Delete", "Backspace", "Escape"].includes(event.key)) {
      this.set({ kind: "none" });
    } else {
      return;
    }
    event.preventDefault();
    this.layout();
  }
}
