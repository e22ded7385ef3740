// The page: takes a picture, shows what the model makes of it at any budget.

import { loadModel } from "./model.js";
import { fitPicture, psnr, readPicture, toPicture, toPixelValues } from "./pictures.js";

const SAMPLES = ["05_owl.png", "03_lemon.png", "06_sketch.png", "07_castle.png", "12_cat.webp", "16_chart.png", "27_grass.webp"];
const element = (id) => document.getElementById(id);
const count = (budget) => `${budget} token${budget === 1 ? "" : "s"}`;

let model;
let shown; // the picture on display: what the model sees of it, its codes, its budgets
let latest = 0; // number of the picture that was asked for last
let wanted = null; // the budget to decode next, while another is being decoded

addEventListener("unhandledrejection", ({ reason }) => tell(`This did not work: ${reason.message}.`));
start().catch((error) => tell(`The page cannot start: ${error.message}.`));

async function start() {
  model = await loadModel((share) => (element("progress").value = share));
  const { image_size: size, num_latent_tokens: limit, codebook_size: entries, budgets } = model.config;
  element("model").textContent = `${size} x ${size} pixels · up to ${limit} tokens, each one of ${entries.toLocaleString("en")}`;
  element("budget").max = limit;
  for (const id of ["original", "rebuilt"]) element(id).width = element(id).height = size;
  element("candidates").append(...budgets.map((budget) => new Option(budget, budget)));
  element("samples").append(...SAMPLES.map(sampleButton));
  listen();
  await takeSample(element("samples").firstChild, SAMPLES[0]);
  document.querySelector("main").hidden = false;
}

function sampleButton(name) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const image = new Image();
  image.src = `samples/${name}`;
  image.alt = name.replace(/^\d+_|\..*$/g, "");
  button.append(image);
  button.addEventListener("click", () => takeSample(button, name));
  return button;
}

async function takeSample(button, name) {
  await take((await fetch(`samples/${name}`)).blob(), button);
}

function listen() {
  const drop = element("drop");
  element("file").addEventListener("change", ({ target }) => {
    if (target.files.length) take(target.files[0]);
    target.value = ""; // so that the same file can be chosen again
  });
  drop.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && element("file").click());
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
  }
  element("budget").addEventListener("input", ({ target }) => show(Number(target.value)));
  element("follow").addEventListener("click", () => show(shown.budget));
}

/** Encodes a picture, a file or the promise of one, and shows it at the budget that the model chooses. */
async function take(file, button = null) {
  const number = ++latest;
  let picture;
  try {
    picture = fitPicture(await readPicture(await file), model.processor);
  } catch {
    tell("This file cannot be read as a picture; choose a PNG, JPEG, WebP, AVIF or GIF.");
    return;
  }
  const begin = performance.now();
  const encoded = await model.encode(toPixelValues(picture, model.processor));
  if (number !== latest) return; // another one was chosen meanwhile
  shown = { picture, ...encoded, encodeTime: performance.now() - begin };
  tell("");
  for (const other of element("samples").children) other.setAttribute("aria-pressed", String(other === button));
  element("original").getContext("2d").putImageData(picture, 0, 0);
  drawPolicy();
  await show(encoded.budget);
}

/** Decodes at a budget. While that takes, the newest of the budgets asked for meanwhile waits, the others are left out. */
async function show(budget) {
  const isBusy = wanted !== null;
  wanted = budget;
  if (isBusy) return;
  let done, source;
  try {
    do {
      [done, source] = [wanted, shown];
      const begin = performance.now();
      const values = await model.decode(source.codes, done);
      const time = performance.now() - begin;
      if (source === shown) draw(done, toPicture(values, model.config.image_size), time);
    } while (done !== wanted || source !== shown);
  } finally {
    wanted = null;
  }
}

function draw(budget, rebuilt, decodeTime) {
  const { picture, codes, encodeTime, budget: chosen } = shown;
  const bits = model.countBits(budget);
  const milliseconds = (time) => `${time.toFixed(time < 10 ? 1 : 0)} ms`;
  element("rebuilt").getContext("2d").putImageData(rebuilt, 0, 0);
  element("caption").textContent = `Rebuilt from ${count(budget)}`;
  element("verdict").innerHTML =
    budget === chosen
      ? `The model keeps <strong>${budget} of ${codes.length} tokens</strong>.`
      : `You keep <strong>${budget} of ${codes.length} tokens</strong>. The model would keep ${chosen}.`;
  element("bytes").textContent = `${Math.ceil(bits / 8 - 1e-9)} bytes`;
  element("rate").textContent = `${(bits / picture.width / picture.height).toFixed(4)} bits per pixel`;
  element("psnr").textContent = `${psnr(picture, rebuilt).toFixed(1)} dB`;
  element("time").textContent = milliseconds(encodeTime + decodeTime);
  element("times").textContent = `encode ${milliseconds(encodeTime)}, decode ${milliseconds(decodeTime)}`;
  if (budget === wanted) element("budget").value = budget; // else a hand is still dragging it
  element("shown").textContent = budget;
  element("follow").disabled = budget === chosen;
  element("codes").replaceChildren(
    ...Array.from(codes, (code, place) => {
      const item = document.createElement("li");
      item.textContent = code;
      item.classList.toggle("dropped", place >= budget);
      return item;
    }),
  );
  const buttons = [...element("policy").children];
  buttons.forEach((bar) => bar.setAttribute("aria-pressed", String(Number(bar.dataset.budget) === budget)));
}

function drawPolicy() {
  const { policy } = shown;
  if (policy === null) element("policy-hint").textContent = "The policy of this model has not been trained: it keeps all tokens.";
  const largest = policy ? Math.max(...policy) : 1;
  element("policy").replaceChildren(
    ...model.config.budgets.map((budget, i) => {
      const bar = document.createElement("button");
      const share = policy ? `${Math.round(100 * policy[i])}%` : "";
      bar.type = "button";
      bar.dataset.budget = budget;
      bar.title = `${count(budget)} ${share}`.trim();
      bar.innerHTML = `<small>${share}</small><i style="height: ${policy ? (70 * policy[i]) / largest : 0}%"></i>${budget}`;
      bar.addEventListener("click", () => show(budget));
      return bar;
    }),
  );
}

function tell(sentence) {
  element("status").textContent = sentence;
  element("status").hidden = !sentence;
}
