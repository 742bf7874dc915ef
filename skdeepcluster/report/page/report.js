"use strict";
(() => {
  const find = (selector) => document.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tip = find("#tip"), tipImage = find("#tip-image"), tipText = find("#tip-text");

  function show(src, text, plain, x, y) {
    tipImage.src = src;
    tipImage.className = plain ? "plain" : "";
    tipText.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 16 + box.width > innerWidth ? x - 16 - box.width : x + 16;
    const top = y + 16 + box.height > innerHeight ? y - 16 - box.height : y + 16;
    tip.style.left = `${Math.max(6, Math.min(left, innerWidth - box.width - 6))}px`;
    tip.style.top = `${Math.max(6, top)}px`;
  }

  function hide() {
    tip.hidden = true;
    all(".tiles .at").forEach((tile) => tile.classList.remove("at"));
  }

  // -- images in rows: the pointer, a tap, or the arrow keys

  function showTile(image) {
    const box = image.getBoundingClientRect();
    const { src, alt } = image;
    show(src, alt, image.classList.contains("plain"), box.right - 12, box.bottom - 12);
  }

  for (const event of ["pointerover", "click"]) {
    document.addEventListener(event, ({ target }) => {
      if (target.matches(".tiles img")) showTile(target);
      else if (target.id !== "canvas") hide();
    });
  }
  // not "scroll": the arrow keys scroll, too
  for (const event of ["wheel", "touchmove"]) {
    document.addEventListener(event, hide, { passive: true });
  }
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());
  all(".tiles").forEach((list) => {
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const images = all("img", list);
      if (!step || !images.length) return;
      event.preventDefault();
      const at = images.findIndex((image) => image.parentNode.matches(".at"));
      const next = images[(at + step + images.length) % images.length] || images[0];
      hide();
      next.parentNode.classList.add("at");
      next.scrollIntoView({ block: "nearest", behavior: "instant" });
      showTile(next);
    });
    list.addEventListener("blur", hide);
  });

  // -- the map

  const data = find("#data") && JSON.parse(find("#data").textContent);
  if (!data) return;
  const canvas = find("#canvas"), pen = canvas.getContext("2d");
  const n = data.x.length, wide = Math.max(...data.x, 1), high = Math.max(...data.y, 1);
  const radius = Math.max(1.6, Math.min(4.5, 11 - 2.3 * Math.log10(n + 9)));
  const shape = (cluster) => (cluster < 0 ? "none" : cluster % 5);
  const outline = new Map(["none", 0, 1, 2, 3, 4].map((name) => [
    name, new Path2D(find(name === "none" ? "#s-none" : `#s${name}`).getAttribute("d")),
  ]));
  const keys = all(".key"), marks = new Map(keys.map((key) => [+key.dataset.cluster, key.firstElementChild]));
  const onPage = new Map(all(".tiles img").map((image) => [+image.dataset.row, image]));
  const members = new Map();
  data.c.forEach((cluster, i) => {
    if (!members.has(cluster)) members.set(cluster, []);
    members.get(cluster).push(i);
  });
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  const names = [...members].filter(([cluster]) => cluster >= 0).map(([cluster, points]) => {
    const x = middle(points.map((i) => data.x[i])), y = middle(points.map((i) => data.y[i]));
    const far = (i) => (data.x[i] - x) ** 2 + (data.y[i] - y) ** 2;
    // a cluster in two parts has nothing at its median
    const at = points.reduce((best, i) => (far(i) < far(best) ? i : best));
    return [cluster, data.x[at], data.y[at]];
  });
  let chosen = null, current = -1, zoom = 1, shiftX = 0, shiftY = 0, width = 0, height = 0;
  const color = new Map();

  function place(x, y) {
    const room = Math.min((width - 28) / wide, (height - 28) / high) * zoom;
    return [
      width / 2 + shiftX + (x - wide / 2) * room,
      height / 2 + shiftY + (y - high / 2) * room,
    ];
  }

  function draw() {
    const ratio = devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const style = getComputedStyle(document.body);
    marks.forEach((mark, cluster) => color.set(cluster, getComputedStyle(mark).color));
    const order = [...members.keys()].sort((a, b) => (a === chosen) - (b === chosen));
    for (const cluster of order) {
      pen.fillStyle = color.get(cluster);
      pen.globalAlpha = chosen === null ? 0.8 : cluster === chosen ? 1 : 0.1;
      const path = outline.get(shape(cluster));
      const size = (ratio * radius) / 4.5;
      for (const i of members.get(cluster)) {
        const [x, y] = place(data.x[i], data.y[i]);
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        pen.setTransform(size, 0, 0, size, x * ratio, y * ratio);
        pen.fill(path);
      }
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = 1;
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    for (const [cluster, x, y] of names) {
      if (cluster !== chosen && (chosen !== null || names.length > 60)) continue;
      pen.strokeStyle = style.backgroundColor;
      pen.fillStyle = style.color;
      pen.strokeText(cluster, ...place(x, y));
      pen.fillText(cluster, ...place(x, y));
    }
    if (current >= 0) {
      const i = data.pictures[current][0];
      pen.lineWidth = 2;
      pen.strokeStyle = style.color;
      pen.beginPath();
      pen.arc(...place(data.x[i], data.y[i]), radius + 5, 0, 7);
      pen.stroke();
    }
  }

  function showPoint(at) {
    current = at;
    draw();
    if (at < 0) return hide();
    const [i, row, text, src] = data.pictures[at];
    const [x, y] = place(data.x[i], data.y[i]), box = canvas.getBoundingClientRect();
    const image = onPage.get(row);
    show(src || image.src, text, data.plain, box.left + x, box.top + y);
  }

  function nearest(event) {
    let best = -1, least = event.pointerType === "touch" ? 32 ** 2 : 18 ** 2;
    data.pictures.forEach(([i], at) => {
      if (chosen !== null && data.c[i] !== chosen) return;
      const [x, y] = place(data.x[i], data.y[i]);
      const far = (x - event.offsetX) ** 2 + (y - event.offsetY) ** 2;
      if (far < least) [best, least] = [at, far];
    });
    return best;
  }

  let dragged = null;
  canvas.addEventListener("pointermove", (event) => {
    if (dragged && event.buttons && zoom > 1) {
      shiftX += event.offsetX - dragged[0];
      shiftY += event.offsetY - dragged[1];
      dragged = [event.offsetX, event.offsetY];
      current = -1;
      hide();
      return draw();
    }
    const at = nearest(event);
    if (at !== current) showPoint(at);
  });
  canvas.addEventListener("pointerdown", (event) => {
    dragged = [event.offsetX, event.offsetY];
    showPoint(nearest(event));
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  canvas.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && showPoint(-1));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !data.pictures.length) return;
    event.preventDefault();
    let at = current;
    for (let tries = 0; tries < data.pictures.length; tries++) {
      at = (at + step + data.pictures.length) % data.pictures.length;
      if (chosen === null || data.c[data.pictures[at][0]] === chosen) break;
    }
    showPoint(at);
  });
  canvas.addEventListener("blur", () => showPoint(-1));

  function choose(cluster) {
    chosen = chosen === cluster ? null : cluster;
    keys.forEach((key) => key.setAttribute("aria-pressed", +key.dataset.cluster === chosen));
    showPoint(-1);
  }
  keys.forEach((key) => key.addEventListener("click", () => choose(+key.dataset.cluster)));
  all("[data-show]").forEach((button) => button.addEventListener("click", () => {
    if (chosen !== +button.dataset.show) choose(+button.dataset.show);
    find("#map").scrollIntoView();
  }));

  function zoomBy(factor) {
    const before = zoom;
    zoom = Math.max(1, Math.min(16, zoom * factor));
    shiftX = zoom === 1 ? 0 : (shiftX * zoom) / before;
    shiftY = zoom === 1 ? 0 : (shiftY * zoom) / before;
    canvas.classList.toggle("zoomed", zoom > 1);
    showPoint(-1);
  }
  find("#closer").addEventListener("click", () => zoomBy(1.6));
  find("#farther").addEventListener("click", () => zoomBy(1 / 1.6));
  new ResizeObserver(draw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
