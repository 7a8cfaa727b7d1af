"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const { record, runtime } = data;
const [channels, size] = record.image_shape;
const pixels = size * size;
const dim = record.networks.decoder.inputs[0].shape[1];
const at = id => document.getElementById(id);
const sessions = {};

// ---- networks

async function fetched(url, integrity) {
  const answer = await fetch(url, integrity ? { integrity } : {});
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

async function load() {
  if (typeof ort === "undefined") throw new Error("onnxruntime-web could not be loaded");
  const networks = Object.entries(record.networks);
  const [script, binary, ...files] = await Promise.all([
    fetched(runtime.module.url, runtime.module.integrity),
    fetched(runtime.binary.url, runtime.binary.integrity),
    ...networks.map(([, network]) => fetched(network.file)),
  ]);
  ort.env.wasm.numThreads = 1; // more need headers that static hosts do not send
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([script], { type: "text/javascript" })) };
  for (const [i, [name]] of networks.entries())
    sessions[name] = await ort.InferenceSession.create(new Uint8Array(files[i]), { executionProviders: ["wasm"] });
}

let queue = Promise.resolve(); // a session runs once at a time

function run(name, feeds) {
  const network = record.networks[name];
  const tensors = {};
  for (const { name: key, shape } of network.inputs) {
    const rest = shape.slice(1), length = rest.reduce((a, b) => a * b, 1);
    tensors[key] = new ort.Tensor("float32", feeds[key], [feeds[key].length / length, ...rest]);
  }
  const result = queue.then(() => sessions[name].run(tensors)).then(found => found[network.outputs[0].name].data);
  queue = result.catch(() => {});
  return result;
}

const encode = images => run("encoder", { images });
const decode = codes => run("decoder", { codes });

const uniform = () => Math.floor(Math.random() * 2 ** 24) / 2 ** 24; // below 1 as a 32-bit float
const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

function drawCodes(count) {
  const noise = {};
  for (const { name, shape } of record.networks.prior.inputs)
    noise[name] = Float32Array.from({ length: count * shape[1] }, name === "normal" ? normal : uniform);
  return run("prior", noise);
}

// ---- pictures

function picture(canvas, values, number = 0) {
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size), start = number * channels * pixels;
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 4; c++) {
      const plane = channels === 1 ? 0 : c;
      const value = c === 3 && channels !== 4 ? 1 : values[start + plane * pixels + i];
      image.data[4 * i + c] = Math.round(255 * value); // clamped to 0..255
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function newCanvas(label) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  if (label) { canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", label); }
  return canvas;
}

// At most one call of work at a time; one more afterwards if it was asked for meanwhile.
function latest(work) {
  let busy = false, again = false;
  return async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) { again = false; await work(); }
    } catch (error) { failed(error); } finally { busy = false; }
  };
}

// ---- codes

const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const unit = z => { const n = Math.sqrt(dot(z, z)) || 1; return z.map(x => x / n); };
const onto = z => record.codes_on_sphere ? unit(z) : z;

function between(a, b, t) {
  if (!record.codes_on_sphere) return a.map((x, i) => x + t * (b[i] - x));
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b)))), sine = Math.sin(angle);
  const [p, q] = sine < 1e-4 ? [1 - t, t] : [Math.sin((1 - t) * angle) / sine, Math.sin(t * angle) / sine];
  return unit(a.map((x, i) => p * x + q * b[i]));
}

const codeAt = (codes, number) => Array.from(codes.slice(number * dim, (number + 1) * dim));

// ---- explore

let code = data.examples.codes[0].slice();
let directions = [];

const show = latest(async () => picture(at("picture"), await decode(Float32Array.from(code))));

function explore(z) {
  code = onto(Array.from(z));
  place(null);
  show();
}

function place(moved) {
  for (const d of directions) {
    const value = dot(code.map((x, i) => x - d.origin[i]), d.vector);
    if (d !== moved) {
      d.input.min = Math.min(d.low, value);
      d.input.max = Math.max(d.high, value);
      d.input.value = value;
    }
    const text = value.toPrecision(2).replace("-", "−");
    d.output.textContent = d.input.ariaValueText = Number(value.toPrecision(2)) === 0 ? "0" : text;
  }
}

function buildSliders() {
  const set = data[document.querySelector("input[name=directions]:checked").value];
  const box = at("sliders");
  box.replaceChildren();
  directions = set.names.map((name, i) => {
    const d = { vector: set.vectors[i], origin: set.origin, low: set.low[i], high: set.high[i] };
    const row = document.createElement("div"), label = document.createElement("label");
    const share = document.createElement("small");
    row.className = "slider";
    d.input = document.createElement("input");
    d.output = document.createElement("output");
    d.input.type = "range";
    d.input.step = "any";
    d.input.id = label.htmlFor = `slider-${i}`;
    share.textContent = ` ${Math.round(100 * set.share[i])} %`;
    label.append(name, share);
    // The arrow keys of an input with step "any" move it too far or not at all, by browser.
    d.input.addEventListener("keydown", event => {
      const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      if (!way) return;
      event.preventDefault();
      d.input.value = Number(d.input.value) + way * (d.high - d.low) / 50;
      d.input.dispatchEvent(new Event("input"));
    });
    d.input.addEventListener("input", () => {
      const step = Number(d.input.value) - dot(code.map((x, k) => x - d.origin[k]), d.vector);
      code = onto(code.map((x, k) => x + step * d.vector[k]));
      place(d);
      show();
    });
    row.append(label, d.output, d.input);
    const line = document.createElement("div");
    line.className = "direction";
    line.append(newCanvas(`towards ${d.low.toPrecision(2)}`), row, newCanvas(`towards ${d.high.toPrecision(2)}`));
    box.append(line);
    return d;
  });
  place(null);
  showEnds();
}

// The mean code, moved to both ends of each slider.
const showEnds = latest(async () => {
  const shown = directions, codes = shown.flatMap(d => [d.low, d.high].flatMap(value => {
    const step = value - dot(data.centre.map((x, k) => x - d.origin[k]), d.vector);
    return onto(data.centre.map((x, k) => x + step * d.vector[k]));
  }));
  const images = await decode(Float32Array.from(codes));
  if (shown === directions) [...at("sliders").querySelectorAll("canvas")].forEach((canvas, i) => picture(canvas, images, i));
});

function toTop() {
  at("explore-title").scrollIntoView({ block: "start" });
}

// ---- samples

const COUNT = 24;
let sampleCodes;

const drawSamples = latest(async () => {
  sampleCodes = await drawCodes(COUNT);
  const images = await decode(sampleCodes);
  [...at("samples").querySelectorAll("canvas")].forEach((canvas, i) => picture(canvas, images, i));
});

function buildSamples() {
  for (let i = 0; i < COUNT; i++) {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaLabel = `explore from sample ${i + 1}`;
    button.append(newCanvas());
    button.addEventListener("click", () => { explore(codeAt(sampleCodes, i)); toTop(); });
    at("samples").append(button);
  }
}

// ---- interpolation

const ends = { from: null, to: null };
const betweenCode = () => between(ends.from, ends.to, at("position").value / 100);

const showBetween = latest(async () => {
  at("position-value").textContent = `${at("position").value} %`;
  picture(at("between"), await decode(Float32Array.from(betweenCode())));
});

const showStrip = latest(async () => {
  const codes = Array.from({ length: 9 }, (_, i) => between(ends.from, ends.to, i / 8)).flat();
  const images = await decode(Float32Array.from(codes));
  [...at("strip").children].forEach((canvas, i) => picture(canvas, images, i));
});

function choose(end, z) {
  ends[end] = onto(Array.from(z));
  if (ends.from && ends.to) { showBetween(); showStrip(); }
}

function addThumb(end, thumb, name, z, first) {
  const label = document.createElement("label"), input = document.createElement("input");
  input.type = "radio";
  input.name = end;
  input.className = "hidden";
  input.ariaLabel = name;
  thumb.classList.add("thumb");
  input.addEventListener("change", () => choose(end, z));
  label.append(input, thumb);
  first ? at(end).prepend(label) : at(end).append(label);
  return input;
}

function buildInterpolation() {
  const [first, ...others] = data.examples.codes; // and the one that is farthest from it
  const distances = [0, ...others.map(z => z.reduce((sum, x, i) => sum + (x - first[i]) ** 2, 0))];
  for (const [end, chosen] of [["from", 0], ["to", distances.indexOf(Math.max(...distances))]]) {
    data.examples.images.forEach((source, i) => {
      const image = document.createElement("img");
      image.src = source;
      image.alt = "";
      const input = addThumb(end, image, `image ${i + 1}`, data.examples.codes[i], false);
      if (i !== chosen) return;
      input.checked = true;
      at(end).scrollLeft = input.parentElement.offsetLeft - at(end).offsetLeft - 40;
    });
    choose(end, data.examples.codes[chosen]);
  }
  for (let i = 0; i < 9; i++) at("strip").append(newCanvas());
}

// ---- a visitor's image

class Unusable extends Error {}

const planes = channels === 4 ? 4 : 3; // of an image before it is prepared
const LARGEST = 4096; // side of what is drawn at the image's own size; browsers limit canvases

// The pixels of the part of an image that its centre square is computed from, and the square in them: RGB on white, or
// RGBA with colours multiplied by alpha, as they are resized.
async function opened(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "default" });
  } catch {
    throw new Unusable(`${file.name || "This"} is no image that your browser can read.`);
  }
  const { width, height } = bitmap;
  const side = record.preprocessing.crop_pixels ?? Math.min(width, height);
  if (side > Math.min(width, height))
    throw new Unusable(`This image is ${width}×${height} pixels, smaller than the square of ${side} that is cut out.`);
  // the filter reaches beyond the square
  const reach = Math.ceil(Math.max(1, side / size)) + 1;
  const left = Math.floor((width - side) / 2), top = Math.floor((height - side) / 2);
  const x0 = Math.max(0, left - reach), y0 = Math.max(0, top - reach);
  const w = Math.min(width, left + side + reach) - x0, h = Math.min(height, top + side + reach) - y0;
  const scale = Math.min(1, LARGEST / side);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(w * scale);
  canvas.height = Math.round(h * scale);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (planes === 3) {
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.imageSmoothingEnabled = scale < 1;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x0, y0, w, h, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const found = context.getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint8ClampedArray(planes * found.width * found.height), factor = record.preprocessing.byte_factor;
  for (let i = 0; i < found.width * found.height; i++) {
    const alpha = found.data[4 * i + 3];
    for (let c = 0; c < 3; c++) {
      const value = found.data[4 * i + c];
      values[planes * i + c] = planes === 4 ? product(value, alpha) : factor * value;
    }
    if (planes === 4) values[4 * i + 3] = alpha;
  }
  const box = { left: (left - x0) * scale, top: (top - y0) * scale, side: side * scale };
  return { values, width: found.width, height: found.height, box };
}

// Weights of Pillow's bilinear filter, in units of 2**-22, for each of the outputs along one axis.
function weightsOf(length, start, side) {
  const scale = side / size, support = Math.max(scale, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = start + (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(length, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((k + first - centre + 0.5) / support)));
    const total = weights.reduce((a, b) => a + b, 0);
    return { first, weights: weights.map(x => Math.round(x / total * 2 ** 22)) };
  });
}

const byte = sum => Math.min(255, Math.max(0, Math.floor((sum + 2 ** 21) / 2 ** 22)));

// As Pillow resizes 8-bit images: along rows, rounded, then along columns.
function resized({ values, width, height, box }) {
  const across = weightsOf(width, box.left, box.side), down = weightsOf(height, box.top, box.side);
  const wide = new Uint8Array(planes * size * height), small = new Uint8Array(planes * pixels);
  for (let y = 0; y < height; y++)
    across.forEach(({ first, weights }, x) => {
      for (let c = 0; c < planes; c++) {
        let sum = 0;
        weights.forEach((weight, k) => { sum += weight * values[planes * (y * width + first + k) + c]; });
        wide[planes * (y * size + x) + c] = byte(sum);
      }
    });
  down.forEach(({ first, weights }, y) => {
    for (let i = 0; i < planes * size; i++) {
      let sum = 0;
      weights.forEach((weight, k) => { sum += weight * wide[planes * size * (first + k) + i]; });
      small[planes * size * y + i] = byte(sum);
    }
  });
  return small;
}

// As Pillow multiplies two bytes that stand for fractions, in integers.
function product(a, b) {
  const scaled = a * b + 128;
  return ((scaled >> 8) + scaled) >> 8;
}

// Colours that were multiplied by alpha, divided by it again; white where nothing is seen.
function prepared(rgb) {
  const input = new Float32Array(channels * pixels), [r, g, b] = record.preprocessing.luma;
  for (let i = 0; i < pixels; i++) {
    if (channels === 4) {
      const alpha = rgb[4 * i + 3];
      input[3 * pixels + i] = alpha / 255;
      for (let c = 0; c < 3; c++)
        input[c * pixels + i] = alpha ? Math.min(255, Math.floor(255 * rgb[4 * i + c] / alpha)) / 255 : 1;
    } else if (channels === 3)
      for (let c = 0; c < 3; c++) input[c * pixels + i] = rgb[3 * i + c] / 255;
    else input[i] = ((r * rgb[3 * i] + g * rgb[3 * i + 1] + b * rgb[3 * i + 2] + 32768) >>> 16) / 255;
  }
  return input;
}

let own = null;

async function take(file) {
  at("problem").textContent = "";
  if (!file) return;
  try {
    const input = prepared(resized(await opened(file)));
    const z = await encode(input), output = await decode(z);
    own = { input, code: Array.from(z) };
    picture(at("original"), input);
    picture(at("reconstruction"), output);
    const error = input.reduce((sum, x, i) => sum + (x - output[i]) ** 2, 0) / input.length;
    at("error").textContent = `(mean squared error ${error.toPrecision(2)})`;
    at("own").hidden = false;
  } catch (error) {
    at("own").hidden = true;
    at("problem").textContent = error instanceof Unusable ? error.message : `This image cannot be used (${error.message}).`;
  }
}

function interpolateOwn(end) {
  const thumb = newCanvas();
  picture(thumb, own.input);
  const input = addThumb(end, thumb, "your image", own.code, true);
  input.checked = true;
  choose(end, own.code);
  at(end).scrollLeft = 0;
  at("between-title").scrollIntoView({ block: "start" });
}

// ---- start

function listen() {
  at("sample").addEventListener("click", latest(async () => explore(await drawCodes(1))));
  at("centre").addEventListener("click", () => explore(data.centre));
  at("save").addEventListener("click", () => at("picture").toBlob(blob => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "sample.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }));
  for (const input of document.querySelectorAll("input[name=directions]")) input.addEventListener("change", buildSliders);
  at("samples-new").addEventListener("click", drawSamples);
  at("position").addEventListener("input", showBetween);
  at("between-explore").addEventListener("click", () => { explore(betweenCode()); toTop(); });
  at("file").addEventListener("change", event => { take(event.target.files[0]); event.target.value = ""; });
  at("own-explore").addEventListener("click", () => { explore(own.code); toTop(); });
  at("own-from").addEventListener("click", () => interpolateOwn("from"));
  at("own-to").addEventListener("click", () => interpolateOwn("to"));
  document.addEventListener("paste", event => {
    const file = [...event.clipboardData.files].find(f => f.type.startsWith("image/"));
    if (file) { take(file); at("own-title").scrollIntoView({ block: "start" }); }
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
    document.addEventListener(kind, event => { // anywhere: else the browser would leave the page for the image
      event.preventDefault();
      at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") { take(event.dataTransfer.files[0]); at("own-title").scrollIntoView({ block: "start" }); }
    });
}

function failed(error) {
  const hint = location.protocol === "file:"
    ? "Browsers load networks from web servers only: run “python -m http.server” in the folder of this page." : error.message;
  at("status").textContent = `The model does not run here. ${hint}`;
  at("status").classList.add("failed");
}

async function start() {
  if (size <= 32) document.body.classList.add("pixels");
  if (channels === 4) document.body.classList.add("transparent");
  try {
    await load();
    listen();
    buildSliders();
    buildSamples();
    buildInterpolation();
    for (const control of document.querySelectorAll("button, input")) control.disabled = false;
    await Promise.all([show(), drawSamples()]);
    if (!at("status").classList.contains("failed")) at("status").textContent = "";
    document.body.dataset.state = "ready";
  } catch (error) {
    failed(error);
  }
}

start();
})();
