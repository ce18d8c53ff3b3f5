// The live page: asks the service once a second what it does, and shows it.

import { history, interval } from "./draw.js";

const EVERY = 1000, PAGE = 12, SURE = 4000;
const MODELS = { guarded: "given", adapted: "adapted", frozen: "frozen" };
const ANSWERS = { adapted: "adapted answers", each: "each the likelier", frozen: "frozen answers" };
const find = (id) => document.getElementById(id);
const cards = new Map();
let shown = PAGE, modes = [], timer = null, complaint = { sentence: "", until: 0 };
let token = sessionStorage.getItem("token");

const whole = (value) => Math.round(value).toLocaleString("en");
const percent = (value) => (value == null ? "–" : `${Math.round(100 * value)} %`);
const bytes = (value) => (value > 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${whole(value / 1e6)} MB`);
const span = (s) =>
  s == null ? "–" : s < 100 ? `${Math.round(s)} s` : s < 6000 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
const millis = (value) => (value == null ? "–" : value < 10 ? `${value.toFixed(1)} ms` : `${whole(value)} ms`);

class Refused extends Error {
  constructor(status, sentence) {
    super(sentence);
    this.status = status;
  }
}

async function ask(path, method = "GET", body = undefined) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  const sent = { method, headers, body: body && JSON.stringify(body), cache: "no-store" };
  const answer = await fetch(`v1/${path}`, sent);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, found.sentence ?? `status ${answer.status}`);
  return found;
}

const one = (name) => `streams/${encodeURIComponent(name)}`;

function list(node, figures) {
  const parts = Object.entries(figures).map(([name, text]) => {
    const both = document.createElement("div");
    for (const [tag, value] of [["dt", name], ["dd", text]]) {
      both.append(Object.assign(document.createElement(tag), { textContent: value }));
    }
    return both;
  });
  node.replaceChildren(...parts);
}

function text(node, value) {
  node.textContent = value ?? "";
  node.hidden = !value;
}

function showService(stats) {
  if (String(modes) !== String(stats.modes)) {
    modes = stats.modes; // as after another bundle was loaded
    cards.clear();
    find("streams").replaceChildren();
  }
  find("bundle").textContent = stats.bundle;
  document.title = `${stats.bundle} · acclimate serve`;
  const { height, width } = stats.input;
  const state = stats.ready ? "ready" : "warming up";
  find("method").textContent =
    `${stats.method}, ${stats.classes.length} classes, ${height} × ${width} pixels; ${state}, acclimate ${stats.version}`;
  list(find("totals"), {
    streams: whole(stats.streams), "in memory": whole(stats.in_memory), images: whole(stats.images),
    answered: whole(stats.requests.answered), refused: whole(stats.requests.refused + stats.requests.failed),
    waiting: whole(stats.queued_images), memory: bytes(stats.rss_bytes), up: span(stats.uptime_s),
  });
  text(find("guard"), stats.guard_note);
  text(find("trouble"), Date.now() < complaint.until ? complaint.sentence : stats.trouble);
}

function makeCard(name) {
  const card = find("card").content.cloneNode(true).firstElementChild;
  card.querySelector("h2").textContent = name;
  const group = card.querySelector(".modes");
  for (const mode of modes) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: mode });
    button.addEventListener("click", () => act(card, () => ask(`${one(name)}/mode`, "PUT", { mode })));
    group.append(button);
  }
  const reset = card.querySelector(".reset");
  reset.addEventListener("click", () => {
    if (reset.classList.toggle("sure")) {
      reset.textContent = "Forget what it learned?";
      setTimeout(() => calm(reset), SURE);
      return;
    }
    calm(reset);
    act(card, () => ask(`${one(name)}/reset`, "POST"));
  });
  return card;
}

function calm(reset) {
  reset.classList.remove("sure");
  reset.textContent = "Reset";
}

async function act(card, request) {
  const buttons = card.querySelectorAll("button");
  buttons.forEach((button) => (button.disabled = true));
  try {
    await request();
  } catch (error) {
    complaint = { sentence: error.message, until: Date.now() + SURE };
  }
  buttons.forEach((button) => (button.disabled = false));
  await refresh();
}

function estimates(node, estimate) {
  const rows = Object.entries(estimate ? MODELS : {}).flatMap(([name, label]) => {
    const { value, low, high } = estimate[name];
    const number = document.createElement("span");
    number.append(
      `${percent(value)} `,
      Object.assign(document.createElement("span"), {
        className: "range", textContent: `${Math.round(100 * low)}–${Math.round(100 * high)}`,
      }),
    );
    const title = Object.assign(document.createElement("span"), { textContent: label });
    return [title, interval(name === "guarded" ? "each" : name, estimate[name]), number];
  });
  node.replaceChildren(...rows);
}

function plot(title, detail, picture) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  for (const part of [title, detail]) {
    caption.append(Object.assign(document.createElement("span"), { textContent: part }));
  }
  figure.append(caption, picture);
  return figure;
}

function plots(node, points) {
  const found = [];
  if (points.some((point) => point.verdict)) {
    const values = points.flatMap((point) => [point.frozen, point.adapted]).filter(Number.isFinite);
    const least = Math.floor(10 * Math.min(...values)) / 10, most = Math.ceil(10 * Math.max(...values)) / 10;
    const picture = history(points, ["frozen", "adapted"], { least, most, cells: true });
    const scale = `${Math.round(100 * least)} to ${percent(most)}, last ${points.length} batches`;
    found.push(plot("estimates and verdicts", scale, picture));
  }
  const most = Math.max(0, ...points.map((point) => point.latency_ms));
  if (points.length) {
    const picture = history(points, ["latency_ms"], { least: 0, most, height: 24 });
    found.push(plot("latency", `up to ${millis(most)}`, picture));
  }
  node.replaceChildren(...found);
}

function showStream(card, stream, points) {
  const part = (name) => card.querySelector(name);
  part(".badge").textContent = ANSWERS[stream.verdict] ?? (stream.mode === "off" ? "adapted answers" : "no verdict yet");
  part(".badge").className = `badge ${stream.verdict ?? (stream.mode === "off" ? "adapted" : "frozen")}`;
  part(".reason").textContent = [stream.learning, stream.reason].filter(Boolean).join(": ");
  estimates(part(".estimates"), stream.estimate);
  plots(part(".plots"), points);
  list(part(".figures"), {
    images: whole(stream.images), agreement: percent(stream.agreement), latency: millis(stream.latency_ms),
    "last image": `${span(stream.age_s)} ago`, batches: whole(stream.batches), share: percent(stream.share),
    saved: stream.saved_s == null ? "–" : `${span(stream.saved_s)} ago`, state: stream.in_memory ? "in memory" : "on disk",
  });
  text(part(".note"), stream.note);
  for (const button of card.querySelectorAll(".modes button")) {
    button.setAttribute("aria-pressed", String(button.textContent === stream.mode));
  }
}

async function showStreams() {
  const { streams, total } = await ask(`streams?limit=${shown}`);
  const names = new Set(streams.map((each) => each.stream));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.remove();
      cards.delete(name);
    }
  }
  const past = await Promise.all(streams.map((each) => ask(one(each.stream)).catch(() => null)));
  streams.forEach((stream, index) => {
    if (!cards.has(stream.stream)) {
      const card = makeCard(stream.stream);
      cards.set(stream.stream, card);
      find("streams").append(card); // cards keep their places, whichever stream was last used
    }
    showStream(cards.get(stream.stream), stream, past[index]?.history ?? []);
  });
  find("empty").hidden = total > 0;
  find("more").hidden = total <= shown;
}

async function refresh() {
  clearTimeout(timer);
  try {
    if (!document.hidden) {
      showService(await ask("stats"));
      await showStreams();
      find("login").hidden = true;
    }
  } catch (error) {
    if (error.status === 401) {
      find("login").hidden = false;
      find("method").textContent = token ? "this token is not known" : "locked";
    } else {
      text(find("trouble"), error.status ? error.message : "the service does not answer; this page tries again.");
    }
  }
  clearTimeout(timer);
  if (find("login").hidden) timer = setTimeout(refresh, EVERY);
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  sessionStorage.setItem("token", token);
  find("token").value = "";
  find("login").hidden = true;
  refresh();
});
find("more").addEventListener("click", () => {
  shown = Math.min(shown + PAGE, 1000);
  refresh();
});
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();
