"use strict";
// The map: dots are written into one array of pixels, images drawn over them where there is room, so that 50,000
// points move smoothly without a library.
(() => {
  const byId = id => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
  const points = new Float32Array(bytes(data.points));
  const near = new Uint32Array(bytes(data.near));
  const distances = new Float32Array(bytes(data.distances));
  const count = points.length / 2, perImage = near.length / count;
  for (const column of data.columns) {
    if (column.kind === "class") column.codes = new Uint16Array(bytes(column.codes));
    else column.values = new Float32Array(bytes(column.values));
  }

  // ---- images: sheets are decoded when they are first drawn from
  function sheets(record) {
    const perSheet = record.columns ** 2, loaded = record.sheets.map(() => null);
    function load(sheet) {
      if (loaded[sheet]) return;
      const image = loaded[sheet] = new Image();
      image.ready = false;
      image.src = record.sheets[sheet];
      image.decode().then(() => { image.ready = true; redraw(); if (selected >= 0) showDetails(); });
    }
    return {
      draw(context, i, x, y, size) {
        const sheet = Math.floor(i / perSheet), place = i % perSheet, side = record.side;
        load(sheet);
        if (!loaded[sheet].ready) return false;
        context.drawImage(loaded[sheet], place % record.columns * side, Math.floor(place / record.columns) * side,
          side, side, x, y, size, size);
        return true;
      },
    };
  }

  // ---- colours
  const PALETTE = ["#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
    "#17becf", "#bcbd22", "#8c564b", "#1f5fd0", "#d62728", "#2ca02c", "#9467bd", "#e377c2", "#7f9f00", "#00876c",
    "#c05000"];
  const OTHER = "#8a8f98";
  const RAMP = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"].map(rgb);
  function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }
  function word([r, g, b], alpha = 255) { return (alpha << 24 | b << 16 | g << 8 | r) >>> 0; }
  function ramp(t) {
    const at = Math.max(0, Math.min(1, t)) * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(at));
    return RAMP[i].map((value, k) => Math.round(value + (at - i) * (RAMP[i + 1][k] - value)));
  }
  const colours = new Array(count).fill([78, 121, 167]);
  let column = null, isolated = -1, wanted = "", matches = null, shown = null;

  function recolour() {
    if (!column) colours.fill([78, 121, 167]);
    else if (column.kind === "class") {
      const own = column.names.map((_, k) => rgb(k < PALETTE.length ? PALETTE[k] : OTHER));
      for (let i = 0; i < count; i++) colours[i] = own[column.codes[i]] || rgb(OTHER);
    } else {
      const [low, high] = limits(column);
      for (let i = 0; i < count; i++) {
        const value = column.values[i];
        colours[i] = Number.isFinite(value) ? ramp(high > low ? (value - low) / (high - low) : 0.5) : rgb(OTHER);
      }
    }
    legend();
    filter();
  }
  function limits(of) {  // without the 1 % at each end, which would leave no difference between the others
    if (!of.limits) {
      const values = of.values.filter(Number.isFinite).sort();
      of.limits = values.length ? [0.01, 0.99].map(q => values[Math.round(q * (values.length - 1))]) : [0, 0];
    }
    return of.limits;
  }
  const format = value => Number.isFinite(value) ? String(+value.toPrecision(3)) : "none";

  function legend() {
    const box = byId("legend");
    box.replaceChildren();
    if (!column) return;
    if (column.kind === "class") {
      column.names.slice(0, PALETTE.length).forEach((name, k) => box.append(entry(name, PALETTE[k], k)));
      const rest = column.names.length - PALETTE.length;
      if (rest > 0) box.append(entry(`${rest} more`, OTHER, PALETTE.length));
      return;
    }
    const [low, high] = limits(column).map(format), strip = document.createElement("canvas");
    Object.assign(strip, { id: "ramp", width: 64, height: 1 });
    const context = strip.getContext("2d");
    for (let i = 0; i < 64; i++) {
      context.fillStyle = `rgb(${ramp(i / 63)})`;
      context.fillRect(i, 0, 1, 1);
    }
    box.append(low, strip, high);
    box.title = "the range without the 1 % of images at each end";
  }
  function entry(name, colour, k) {
    const button = document.createElement("button"), dot = document.createElement("i");
    button.type = "button";
    button.setAttribute("aria-pressed", String(k === isolated));
    dot.style.background = colour;
    button.append(dot, name);
    button.title = name;
    button.onclick = () => { isolated = isolated === k ? -1 : k; legend(); filter(); };
    return button;
  }

  // ---- what is shown in full: the others are faint
  function filter() {
    const code = column && column.kind === "class" && isolated >= 0 ? isolated : -1;
    if (code < 0 && !matches) shown = null;
    else {
      shown = new Uint8Array(count);
      for (let i = 0; i < count; i++) {
        const fits = code < 0 || (code < PALETTE.length ? column.codes[i] === code
          : column.codes[i] >= code && column.codes[i] < 65535);
        shown[i] = fits && (!matches || matches.has(i)) ? 1 : 0;
      }
    }
    redraw();
  }

  // ---- the view
  const canvas = byId("map"), context = canvas.getContext("2d");
  let width = 0, height = 0, ratio = 1, scale = 1, centreX = 0, centreY = 0, fitted = 1, pending = false;
  let selected = -1, drawn = [], dark = false, pixels = null, words = null;
  const order = new Uint32Array(count);  // in which images take their room: random, but always the same
  for (let i = 0, state = 1; i < count; i++) {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    const j = state % (i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  const originals = sheets(data.images), rebuilt = sheets(data.rebuilt);

  const box = [Infinity, -Infinity, Infinity, -Infinity];
  for (let i = 0; i < count; i++) {
    box[0] = Math.min(box[0], points[2 * i]); box[1] = Math.max(box[1], points[2 * i]);
    box[2] = Math.min(box[2], points[2 * i + 1]); box[3] = Math.max(box[3], points[2 * i + 1]);
  }
  function fit() {
    const wide = box[1] - box[0] || 1, high = box[3] - box[2] || 1;
    fitted = Math.min((width - 50) / wide, (height - 50) / high);
    if (!(fitted > 0)) fitted = 1;
    scale = fitted;
    centreX = (box[0] + box[1]) / 2;
    centreY = (box[2] + box[3]) / 2;
    redraw();
  }
  const toX = i => width / 2 + (points[2 * i] - centreX) * scale;
  const toY = i => height / 2 - (points[2 * i + 1] - centreY) * scale;

  function resize() {
    const old = width;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    ratio = Math.min(2, window.devicePixelRatio || 1);
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    pixels = context.createImageData(canvas.width, canvas.height);
    words = new Uint32Array(pixels.data.buffer);
    if (!old) fit();
    redraw();
  }
  function redraw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; draw(); });
  }
  const imageSize = () => Math.round(Math.max(24, Math.min(96, 28 * Math.pow(scale / fitted, 0.3))));

  function draw() {
    if (!words) return;
    const background = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
    words.fill(word(background));
    const faint = word(background.map(value => Math.round(0.82 * value + 0.18 * (dark ? 255 : 0))));
    const size = Math.max(2, Math.min(7, Math.round(ratio * (1.5 + 60 / Math.sqrt(count))
      * Math.pow(scale / fitted, 0.35))));
    if (shown) for (let i = 0; i < count; i++) if (!shown[i]) stamp(i, faint, size);
    for (let i = 0; i < count; i++) if (!shown || shown[i]) stamp(i, word(colours[i]), size);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.putImageData(pixels, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.imageSmoothingEnabled = imageSize() <= data.images.side;
    if (byId("thumbs").checked) drawImages(); else drawn = [];
    if (selected >= 0) drawSelected();
  }
  function stamp(i, colour, size) {
    const x = Math.round(toX(i) * ratio - size / 2), y = Math.round(toY(i) * ratio - size / 2);
    if (x < 0 || y < 0 || x + size > canvas.width || y + size > canvas.height) return;
    const round = size > 3 ? 1 : 0;  // corners left out
    for (let row = 0; row < size; row++) {
      const inset = round && (row === 0 || row === size - 1) ? 1 : 0, start = (y + row) * canvas.width + x;
      words.fill(colour, start + inset, start + size - inset);
    }
  }
  function drawImages() {
    const size = imageSize(), cell = size + 4, columns = Math.ceil(width / cell) + 2;
    const taken = new Map();
    drawn = [];
    for (const i of order) {
      if (shown && !shown[i]) continue;
      const x = toX(i), y = toY(i);
      if (x < -size || y < -size || x > width + size || y > height + size) continue;
      const column = Math.floor(x / cell) + 1, row = Math.floor(y / cell) + 1;
      let free = true;
      for (let dy = -1; dy <= 1 && free; dy++) for (let dx = -1; dx <= 1 && free; dx++) {
        const other = taken.get((row + dy) * (columns + 4) + column + dx);
        if (other !== undefined && Math.abs(toX(other) - x) < cell && Math.abs(toY(other) - y) < cell) free = false;
      }
      if (!free) continue;
      taken.set(row * (columns + 4) + column, i);
      frame(i, x, y, size);
    }
  }
  function frame(i, x, y, size) {
    const left = Math.round(x - size / 2), top = Math.round(y - size / 2);
    context.fillStyle = `rgb(${colours[i]})`;
    context.fillRect(left - 2, top - 2, size + 4, size + 4);
    originals.draw(context, i, left, top, size);
    drawn.push([i, left - 2, top - 2, size + 4]);
  }
  function drawSelected() {
    const x = toX(selected), y = toY(selected), size = Math.max(40, imageSize());
    context.lineWidth = 1.5;
    context.strokeStyle = dark ? "#fff" : "#000";
    context.beginPath();
    for (let k = 0; k < perImage; k++) {
      context.moveTo(x, y);
      context.lineTo(toX(near[selected * perImage + k]), toY(near[selected * perImage + k]));
    }
    context.stroke();
    for (let k = perImage - 1; k >= 0; k--) {
      const i = near[selected * perImage + k];
      frame(i, toX(i), toY(i), imageSize());
    }
    context.fillStyle = dark ? "#fff" : "#000";
    context.fillRect(Math.round(x - size / 2) - 5, Math.round(y - size / 2) - 5, size + 10, size + 10);
    frame(selected, x, y, size);
  }

  // ---- finding images
  function at(x, y) {
    for (let k = drawn.length - 1; k >= 0; k--) {
      const [i, left, top, size] = drawn[k];
      if (x >= left && y >= top && x < left + size && y < top + size) return i;
    }
    return closest(x, y, 14);
  }
  function closest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      if (shown && !shown[i]) continue;
      const dx = toX(i) - x, dy = toY(i) - y, distance = dx * dx + dy * dy;
      if (distance < least) { least = distance; best = i; }
    }
    return best;
  }
  function select(i, move) {
    selected = i;
    if (i >= 0 && move) {
      const x = toX(i), y = toY(i), margin = 40;
      if (x < margin || y < margin || x > width - margin || y > height - margin) {
        centreX = points[2 * i];
        centreY = points[2 * i + 1];
      }
    }
    byId("hint").hidden = i >= 0;
    byId("details").hidden = i < 0;
    if (i >= 0) showDetails();
    redraw();
  }
  function paint(of, sheetsOf, i) {
    const target = of.getContext("2d");
    target.imageSmoothingEnabled = false;
    target.clearRect(0, 0, of.width, of.height);
    sheetsOf.draw(target, i, 0, 0, of.width);
  }
  const nameOf = i => (/^\d+$/.test(data.names[i]) ? "image " : "") + data.names[i];
  const textOf = (of, i) => of.kind === "class" ? of.names[of.codes[i]] ?? "none" : format(of.values[i]);
  function showDetails() {
    byId("name").textContent = nameOf(selected);
    for (const id of ["original", "rebuilt"]) {
      const target = byId(id);
      if (target.width !== data.images.side) target.width = target.height = data.images.side;
      paint(target, id === "original" ? originals : rebuilt, selected);
    }
    byId("facts").tBodies[0].replaceChildren(...data.columns.map(of => {
      const row = document.createElement("tr");
      row.append(...[of.name, textOf(of, selected)].map(text => {
        const cell = document.createElement("td");
        cell.textContent = text;
        return cell;
      }));
      return row;
    }));
    byId("near").replaceChildren(...Array.from({ length: perImage }, (_, k) => {
      const i = near[selected * perImage + k], button = document.createElement("button");
      const picture = document.createElement("canvas");
      picture.width = picture.height = data.images.side;
      paint(picture, originals, i);
      button.type = "button";
      button.style.borderColor = `rgb(${colours[i]})`;
      button.title = `${nameOf(i)}, distance ${format(distances[selected * perImage + k])}`;
      button.setAttribute("aria-label", button.title);
      button.append(picture, format(distances[selected * perImage + k]));
      button.onclick = () => select(i, true);
      return button;
    }));
  }

  // ---- pointers, wheel and keys
  const pointers = new Map();
  let moved = 0, spread = 0;
  function zoom(factor, x, y) {
    const next = Math.max(fitted / 2, Math.min(fitted * 2000, scale * factor)), dx = x - width / 2, dy = height / 2 - y;
    centreX += dx / scale - dx / next;
    centreY += dy / scale - dy / next;
    scale = next;
    redraw();
  }
  const position = event => {
    const place = canvas.getBoundingClientRect();
    return [event.clientX - place.left, event.clientY - place.top];
  };
  canvas.onpointerdown = event => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, position(event));
    moved = pointers.size > 1 ? Infinity : 0;
    spread = 0;
  };
  canvas.onpointermove = event => {
    const [x, y] = position(event), before = pointers.get(event.pointerId);
    if (!before) return hover(x, y);
    byId("tip").hidden = true;
    const share = pointers.size;
    centreX -= (x - before[0]) / scale / share;
    centreY += (y - before[1]) / scale / share;
    moved += Math.hypot(x - before[0], y - before[1]);
    pointers.set(event.pointerId, [x, y]);
    if (share === 2) {
      const [a, b] = [...pointers.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (spread) zoom(now / spread, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      spread = now;
    }
    canvas.classList.add("moving");
    redraw();
  };
  canvas.onpointerup = canvas.onpointercancel = event => {
    const place = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    spread = 0;
    canvas.classList.remove("moving");
    if (event.type === "pointerup" && place && moved < 6) select(at(...place), false);
  };
  canvas.onpointerleave = () => { byId("tip").hidden = true; };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : 1;
    zoom(Math.exp(-event.deltaY * lines / 400), ...position(event));
  }, { passive: false });
  canvas.ondblclick = event => zoom(2, ...position(event));
  function hover(x, y) {
    const i = at(x, y), tip = byId("tip");
    tip.hidden = i < 0;
    if (i < 0) return;
    paint(tip.firstElementChild, originals, i);
    const label = column && column.kind === "class" ? `\n${textOf(column, i)}` : "";
    tip.lastElementChild.textContent = nameOf(i) + label;
    tip.style.left = `${x > width - 240 ? x - 20 - tip.offsetWidth : x + 16}px`;
    tip.style.top = `${Math.min(y + 16, height - tip.offsetHeight - 4)}px`;
  }
  canvas.onkeydown = event => {
    const step = 60 / scale;
    const keys = {
      ArrowLeft: () => { centreX -= step; }, ArrowRight: () => { centreX += step; },
      ArrowUp: () => { centreY += step; }, ArrowDown: () => { centreY -= step; },
      "+": () => zoom(1.4, width / 2, height / 2), "=": () => zoom(1.4, width / 2, height / 2),
      "-": () => zoom(1 / 1.4, width / 2, height / 2), "0": fit,
      Enter: () => select(closest(width / 2, height / 2, Infinity), false),
    };
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    redraw();
  };
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") select(-1, false);
    if (event.key === "/" && !/^(INPUT|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });

  // ---- controls
  const search = byId("search");
  let turn = -1;
  search.oninput = () => {
    wanted = search.value.trim().toLowerCase();
    turn = -1;
    matches = null;
    if (wanted) {
      matches = new Set();
      data.names.forEach((name, i) => { if (name.toLowerCase().includes(wanted)) matches.add(i); });
    }
    byId("found").textContent = matches ? `${matches.size.toLocaleString("en")} found` : "";
    filter();
  };
  search.onkeydown = event => {
    if (event.key !== "Enter" || !matches || !matches.size) return;
    turn = (turn + 1) % matches.size;
    select([...matches][turn], true);
  };
  byId("fit").onclick = fit;
  byId("thumbs").onchange = redraw;
  const choice = byId("colour");
  for (const [k, of] of data.columns.entries()) choice.append(new Option(of.name, k));
  choice.append(new Option("nothing", -1));
  choice.onchange = () => {
    column = data.columns[choice.value] || null;
    isolated = -1;
    recolour();
    if (selected >= 0) showDetails();
  };
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { dark = scheme.matches; redraw(); };
  scheme.addEventListener("change", follow);
  follow();
  column = data.columns[0] || null;
  new ResizeObserver(resize).observe(canvas);
  resize();
  recolour();
})();
