// What the card shows of the commit under the pointer, the finger or the arrow keys; DATA and START come from the page.
const card = document.getElementById("shown"), lanes = [...document.querySelectorAll(".lane .cells")];
let at = -1;
const made = (tag, words, kind = "") => Object.assign(document.createElement(tag), { textContent: words, className: kind });
function show(n) {
  if (n < 0 || n >= DATA.length) return;
  at = n;
  for (const lane of lanes) {
    lane.querySelector(".at")?.classList.remove("at");
    lane.children[n].classList.add("at");
  }
  const { subject, head, lanes: states, why } = DATA[n], list = made("ul", "");
  for (const [name, words] of states) {
    const item = made("li", "");
    item.append(made("code", name, "name"), made("span", words));
    list.append(item);
  }
  card.replaceChildren(made("b", subject), made("p", head, "quiet"), list, ...why.map((line) => made("p", line, "quiet")));
}
function pointed(lane, element) {
  const cell = element?.closest("i");
  if (cell?.parentNode === lane) show([...lane.children].indexOf(cell));
}
for (const lane of lanes) {
  for (const kind of ["pointerover", "click"]) lane.addEventListener(kind, (event) => pointed(lane, event.target));
  lane.addEventListener("touchmove", (event) => {
    const { clientX, clientY } = event.touches[0];
    pointed(lane, document.elementFromPoint(clientX, clientY));
  }, { passive: true });
}
addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step) return;
  show(at + step);
  event.preventDefault();
});
show(START);
