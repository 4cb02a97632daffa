/* Three elements to look at medical pictures with: <um-compare>, <um-window> and <um-pick>.

   They stand as plain tags in what gr.HTML shows. Gradio changes such a tag in place: it sets the attributes that
   differ, and takes away the children that the new markup does not have. So an element keeps its state in fields,
   never in attributes, and all that it shows in one child, `body`, which it does not give away.

   What comes from outside enters the page as text or as a number only, and no picture is fetched from another site. */
import { Compare } from "./compare.js";
import { Pick } from "./pick.js";
import { Viewer } from "./viewer.js";

for (const [name, element] of Object.entries({ "um-compare": Compare, "um-window": Viewer, "um-pick": Pick })) {
  if (!customElements.get(name)) customElements.define(name, element);
}

/** Hands what an element tells to the Gradio text box that its attribute `to` names, as if somebody had typed it. */
document.addEventListener("um-change", ({ target, detail }) => {
  const field = document.getElementById(target.getAttribute("to"))?.querySelector("textarea, input");
  if (!field) return;
  Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, JSON.stringify(detail));
  field.dispatchEvent(new Event("input", { bubbles: true })); // Gradio takes it and runs what listens to `change`
  field.dispatchEvent(new KeyboardEvent("keypress", { bubbles: true })); // and only now what listens to `input`
});
