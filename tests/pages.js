function () {
  // Every text that is shown, with its contrast (WCAG 2.2) against what lies under it; the widths; what is too wide.
  for (const each of document.querySelectorAll("details")) each.open = true;
  const root = document.documentElement;
  const parse = (text) => {
    const [r, g, b, a = 1] = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return { rgb: [r, g, b], a };
  };
  const over = (below, colour, share = 1) =>
    below.map((value, n) => value * (1 - colour.a * share) + colour.rgb[n] * colour.a * share);
  const light = (rgb) => {
    const [r, g, b] = rgb.map((value) => {
      const c = value / 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const page = parse(getComputedStyle(document.body).backgroundColor).rgb;
  const behind = (element) => {
    const parents = [];
    for (let at = element; at; at = at.parentElement) parents.unshift(at);
    return parents.reduce((colour, at) => over(colour, parse(getComputedStyle(at).backgroundColor)), page);
  };
  // In a chart the squares drawn before a text, in order, where its middle lies.
  const painted = (text) => {
    const box = text.getBoundingClientRect();
    const x = box.x + box.width / 2, y = box.y + box.height / 2;
    let colour = behind(text.closest("svg"));
    for (const shape of text.closest("svg").querySelectorAll("rect")) {
      if (!(shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) continue;
      const at = shape.getBoundingClientRect();
      if (x < at.left || x > at.right || y < at.top || y > at.bottom) continue;
      const style = getComputedStyle(shape);
      if (style.fill !== "none") colour = over(colour, parse(style.fill), Number(style.fillOpacity));
    }
    return colour;
  };
  const texts = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement, words = node.textContent.trim();
    if (!words || element.closest("title") || !element.getClientRects().length) continue;
    const drawn = element.closest("svg");
    const style = getComputedStyle(element);
    const below = drawn ? painted(element) : behind(element);
    const ink = light(over(below, parse(drawn ? style.fill : style.color)));
    const ground = light(below);
    const contrast = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    const data = Boolean(element.closest("pre, code, .tokens"));
    texts.push({ text: words.slice(0, 200), contrast: Math.round(contrast * 100) / 100, data });
  }
  const cut = [...document.querySelectorAll("svg text")].filter((text) => {
    const box = text.getBoundingClientRect(), svg = text.closest("svg").getBoundingClientRect();
    return box.width && (box.right > svg.right + 1 || box.left < svg.left - 1 || box.bottom > svg.bottom + 1);
  }).map((text) => text.textContent);
  const wide = [...document.querySelectorAll("body *")]
    .filter((each) => each.getBoundingClientRect().right > root.clientWidth + 1 && !each.closest(".tables, pre, svg"))
    .slice(0, 5).map((each) => each.outerHTML.slice(0, 120));
  return {
    inner: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight, lang: root.lang, page, texts, wide, cut,
  };
}
