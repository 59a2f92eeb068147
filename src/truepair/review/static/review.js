"use strict";
// The review page. Of a list of any length, the cards near the viewport are in the document; a list is cut into sections
// so that it stays below what browsers can scroll.

const CHUNK = 100; // pairs of one request
const SECTION = 2000; // pairs that one scroll bar covers
const CHUNKS_KEPT = 30;
const ROWS_AROUND = 2; // rows of cards above and below the viewport
const NARROWEST = 330; // pixels of a card

const byHand = { keep: "✓ kept", drop: "✕ dropped", "re-pair": "⇄ re-paired" };
const said = { keep: "Kept", drop: "Dropped", "re-pair": "Re-paired", clear: "Cleared" };

const list = { query: "", asOf: null, total: 0, section: 0, focus: 0, chunks: new Map(), asked: new Set(), version: 0 };
const cards = new Map(); // place in the list → its card
let threshold = Number(document.body.dataset.threshold);
const isKnown = document.body.dataset.known === "yes"; // whether the audit gives mismatch probabilities
let steps = Promise.resolve(); // decisions go to the server one after another, in the order of the keys

// ── Talking to the server ────────────────────────────────────────────────────────────────────────────────────────────

function complain(error) {
  at("wrong").textContent = error.message;
  at("wrong").hidden = false;
}

function say(text) {
  at("says").textContent = text;
  at("says").title = text;
  at("wrong").hidden = true;
}

function showProgress({ all, decided }) {
  at("progress").max = Math.max(1, all);
  at("progress").value = decided;
  const what = isKnown ? pluralOf(all, "suspect", "suspects") : pluralOf(all, "pair", "pairs");
  at("progress-says").textContent = `${counted(decided)} of ${what} decided`;
}

// ── The list ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function filters() {
  const form = new FormData(at("filters"));
  const query = new URLSearchParams({ order: form.get("order") });
  const names = [form.get("which"), form.get("decided")].filter((name) => name);
  if (names.length) query.set("filter", names.join(","));
  for (const name of ["probability_from", "probability_to", "text", "issue"]) if (form.get(name)) query.set(name, form.get(name));
  return query.toString();
}

async function reload() {
  const version = ++list.version;
  const query = filters();
  await steps; // the list shall know of them
  try {
    const first = await ask(`api/pairs?${query}&offset=0&limit=${CHUNK}`);
    if (version !== list.version) return; // asked for something else meanwhile
    Object.assign(list, { query, asOf: first.as_of, total: first.total, section: 0, focus: 0 });
    list.chunks = new Map([[0, first.pairs]]);
    list.asked.clear();
    for (const card of cards.values()) card.remove();
    cards.clear();
    showProgress(first.progress);
    say(pluralOf(first.total, "pair", "pairs") + " in this list");
    at("nothing").hidden = first.total > 0;
    at("nothing").textContent = at("filters").elements.decided.value === "undecided"
      ? "Nothing is left to decide in this list. Show other pairs, choose where to cut, and write the cleaned copy."
      : "No pair is like that.";
    draw();
  } catch (error) {
    if (version === list.version) complain(error);
  }
}

async function fetchChunk(number) {
  if (list.asked.has(number)) return;
  list.asked.add(number);
  const version = list.version;
  try {
    const answer = await ask(`api/pairs?${list.query}&offset=${number * CHUNK}&limit=${CHUNK}&as_of=${list.asOf}`);
    if (version !== list.version) return;
    list.chunks.set(number, answer.pairs);
    const far = [...list.chunks.keys()].sort((a, b) => Math.abs(b - number) - Math.abs(a - number));
    for (const chunk of far.slice(0, Math.max(0, far.length - CHUNKS_KEPT))) list.chunks.delete(chunk);
    draw();
  } catch (error) {
    if (version === list.version) complain(error);
  } finally {
    if (version === list.version) list.asked.delete(number);
  }
}

const pairAt = (place) => list.chunks.get(Math.floor(place / CHUNK))?.[place % CHUNK];

function placeOf(rank) {
  for (const [chunk, pairs] of list.chunks) {
    const inside = pairs.findIndex((pair) => pair.rank === rank);
    if (inside >= 0) return chunk * CHUNK + inside;
  }
  return -1;
}

// ── Drawing: the cards near the viewport ─────────────────────────────────────────────────────────────────────────────

function layout() {
  const width = at("space").clientWidth;
  const style = getComputedStyle(at("cards"));
  const gap = parseFloat(style.rowGap);
  const columns = Math.max(1, Math.floor((width + gap) / (NARROWEST + gap)));
  const first = list.section * SECTION;
  const count = Math.max(0, Math.min(SECTION, list.total - first));
  return { columns, gap, height: parseFloat(style.gridAutoRows) + gap, first, count, rows: Math.ceil(count / columns) };
}

function draw() {
  const { columns, gap, height, first, count, rows } = layout();
  const space = at("space");
  space.style.height = `${Math.max(0, rows * height - gap)}px`;
  at("cards").style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const above = -space.getBoundingClientRect().top;
  const from = Math.min(rows, Math.max(0, Math.floor(above / height) - ROWS_AROUND));
  const to = Math.max(from, Math.min(rows, Math.ceil((above + window.innerHeight) / height) + ROWS_AROUND));
  const start = first + from * columns, end = Math.min(first + count, first + to * columns);
  at("cards").style.transform = `translateY(${from * height}px)`;

  const hadFocus = [...cards.values()].some((card) => card.contains(document.activeElement));
  for (const [place, card] of cards) {
    if (place < start || place >= end) { card.remove(); cards.delete(place); }
  }
  let next = at("cards").firstElementChild;
  for (let place = start; place < end; place++) {
    let card = cards.get(place);
    if (card === undefined) {
      card = at("card").content.firstElementChild.cloneNode(true);
      cards.set(place, card);
      at("cards").insertBefore(card, next);
    } else {
      next = card.nextElementSibling;
    }
    fill(card, place);
  }
  for (let chunk = Math.floor(start / CHUNK); chunk * CHUNK < end; chunk++) {
    if (!list.chunks.has(chunk)) fetchChunk(chunk);
  }
  if (hadFocus && document.activeElement === document.body) cards.get(list.focus)?.focus({ preventScroll: true });

  const several = list.total > SECTION;
  const nav = document.querySelector(".sections");
  nav.hidden = !several;
  if (several) {
    nav.querySelector(".where").textContent = `${counted(first + 1)} to ${counted(first + count)} of ${counted(list.total)}`;
    nav.querySelector('[data-section="-1"]').disabled = first === 0;
    nav.querySelector('[data-section="1"]').disabled = first + count >= list.total;
  }
}

function fill(card, place) {
  const pair = pairAt(place);
  const isNow = place === list.focus;
  card.classList.toggle("now", isNow);
  card.tabIndex = isNow ? 0 : -1;
  for (const button of card.querySelectorAll("button")) button.tabIndex = isNow ? 0 : -1;
  card.dataset.place = place;
  card.setAttribute("aria-setsize", list.total);
  card.setAttribute("aria-posinset", place + 1);
  card.classList.toggle("waiting", pair === undefined);
  if (pair === undefined) {
    card.querySelector(".caption").textContent = "…";
    return;
  }
  const state = JSON.stringify([pair.rank, pair.decision, pair.decision ? null : dropsByRule(pair)]);
  if (card.dataset.state === state) return;
  card.dataset.state = state;
  show(card, pair, SMALL);
}

const dropsByRule = (pair) => pair.mismatch_probability !== null && pair.mismatch_probability >= Math.fround(threshold);

function show(where, pair, side) {
  const probability = pair.mismatch_probability;
  const percent = percentOf(probability);
  where.dataset.decision = pair.decision?.action ?? "";
  where.querySelector(".rank").textContent = counted(pair.rank);
  where.querySelector(".probability").textContent = percent;
  where.querySelector(".badge").textContent = pair.decision ? byHand[pair.decision.action] : ruleSays(pair);
  const bar = where.querySelector(".bar span");
  if (bar) bar.style.width = `${100 * (probability ?? 0)}%`;
  where.querySelector(".caption").textContent = pair.caption;
  where.querySelector(".caption").title = pair.caption;
  const isGiven = pair.decision?.action === "re-pair";
  const better = isGiven ? pair.decision.image : pair.suggestion;
  const role = isGiven ? "image it gets" : pair.is_mutual ? "chosen by both sides" : "better for this caption";
  picture(where.querySelector(".present"), pair.image, "present image", side);
  picture(where.querySelector(".suggested"), better, better ? role : "", side);
  where.querySelector(".instead").hidden = pair.suggested_caption === null;
  where.querySelector(".instead .text").textContent = pair.suggested_caption ?? "";
  where.querySelector(".issues").hidden = pair.issues.length === 0;
  where.querySelector(".issues").textContent = pair.issues.join(" · ");
  where.querySelector(".others").hidden = pair.other_captions.length === 0;
  where.querySelector(".others ul").replaceChildren(...pair.other_captions.map(otherCaption));
  where.querySelector('[data-action="re-pair"]').disabled = pair.suggestion === null;
  where.querySelector('[data-action="clear"]').disabled = pair.decision === null;
  where.setAttribute("aria-label", `${pair.rank}, ${percent}: ${pair.caption}`);
}

function otherCaption({ caption, mismatch_probability }) {
  const item = document.createElement("li"), text = document.createElement("span"), says = document.createElement("span");
  text.textContent = caption;
  text.title = caption;
  text.dir = "auto";
  says.textContent = percentOf(mismatch_probability);
  says.className = "soft";
  item.append(text, says);
  return item;
}

function ruleSays(pair) {
  if (!isKnown) return "kept, if undecided";
  if (!dropsByRule(pair)) return "cut keeps it";
  return document.body.dataset.rePairs === "yes" && pair.may_re_pair ? "cut re-pairs it" : "cut drops it";
}

// ── Moving ───────────────────────────────────────────────────────────────────────────────────────────────────────────

function isInView(place) {
  const box = cards.get(place)?.getBoundingClientRect();
  const top = at("bar").getBoundingClientRect().bottom;
  return box !== undefined && box.bottom > top + 40 && box.top < window.innerHeight - 40;
}

function moveTo(place) {
  if (list.total === 0) return;
  list.focus = Math.max(0, Math.min(list.total - 1, place));
  list.section = Math.floor(list.focus / SECTION);
  draw(); // sets the height, so that the place can be scrolled to
  const { columns, height, gap, first } = layout();
  const space = at("space").getBoundingClientRect();
  const top = space.top + Math.floor((list.focus - first) / columns) * height;
  const barHeight = at("bar").offsetHeight + 12;
  if (top < barHeight) window.scrollBy(0, top - barHeight);
  else if (top + height - gap > window.innerHeight - 12) {
    window.scrollBy(0, Math.min(top - barHeight, top + height - gap - window.innerHeight + 12));
  }
  draw();
  if (at("closer").open) lookCloser();
  else cards.get(list.focus)?.focus({ preventScroll: true });
}

function lookCloser() {
  const pair = pairAt(list.focus);
  if (pair === undefined) return;
  show(at("closer"), pair, LARGE);
  if (!at("closer").open) at("closer").showModal();
}

// ── Deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function decide(action, given) {
  const place = list.focus;
  const pair = pairAt(place);
  const image = given ?? pair?.suggestion ?? null;
  if (pair === undefined || (!at("closer").open && !given && !isInView(place))) {
    moveTo(place); // never decide about what nobody sees
    return;
  }
  if (action === "re-pair" && image === null) {
    say("No image is suggested for this caption: find one, keep or drop it");
    return;
  }
  const former = pair.decision;
  pair.decision = action === "clear" ? null : { action, image: action === "re-pair" ? image : null };
  say(`${said[action]}: ${pair.rank}, ${pair.caption}`);
  moveTo(action === "clear" ? place : place + 1);
  if (place + 1 >= list.total && action !== "clear") say(`${said[action]}: ${pair.rank}. This was the last one in this list`);
  step(async () => {
    const image_id = action === "re-pair" ? image.id : null;
    const answer = await ask("api/decide", { caption_id: pair.caption_id, action, image_id });
    pair.decision = answer.decision;
    showProgress(answer.progress);
  }, () => {
    pair.decision = former;
    moveTo(place);
  });
}

function undoOrRedo(kind) {
  step(async () => {
    const answer = await ask(`api/${kind}`, {});
    showProgress(answer.progress);
    const place = placeOf(answer.rank);
    if (place >= 0) {
      pairAt(place).decision = answer.decision;
      moveTo(place);
    }
    const what = kind === "undo" ? "Undone" : "Made again";
    say(answer.was_superseded
      ? `Left as it is, because another page decided it since: ${answer.rank}`
      : `${what}: ${answer.rank} is now ${answer.decision ? byHand[answer.decision.action].slice(2) : "undecided"}`);
  }, () => {});
}

function step(make, mend) {
  steps = steps.then(make).catch((error) => { mend(); complain(error); }).then(() => {
    draw();
    if (at("closer").open) lookCloser();
    showCut();
  });
}

// ── Finding another image for a caption ──────────────────────────────────────────────────────────────────────────────

const finder = at("finder").querySelector(".search") === null ? null : new Search(at("finder"), {
  choose: (hit) => {
    at("finder").close();
    decide("re-pair", { id: hit.image_id, picture: hit.picture });
  },
});

function findImage() {
  const pair = pairAt(list.focus);
  if (pair === undefined) return;
  at("closer").close();
  at("finder-caption").textContent = pair.caption;
  at("finder").showModal();
  finder?.look({ text: pair.caption, find: "images" }).then(() => finder.moveTo(0));
}

// ── Where to cut ─────────────────────────────────────────────────────────────────────────────────────────────────────

let cutTimer, cutAsked = 0;

function showCut() {
  clearTimeout(cutTimer);
  cutTimer = setTimeout(async () => {
    const number = ++cutAsked;
    try {
      const cut = await ask(`api/cut?threshold=${threshold}`);
      if (number !== cutAsked) return;
      const { keep, drop, "re-pair": given } = cut.with_decisions;
      at("cut-with-decisions").textContent =
        `With ${pluralOf(cut.by_hand, "decision", "decisions")} by hand: ${counted(keep)} kept, ` +
        `${counted(given)} re-paired, ${counted(drop)} dropped.`;
      if (!isKnown) return;
      const re_paired = cut.re_paired ? ` and ${counted(cut.re_paired)} re-paired` : "";
      at("cut-says").textContent =
        `${pluralOf(cut.dropped, "pair", "pairs")} dropped${re_paired}, about ${counted(cut.expected_matching)} of them ` +
        `good; about ${counted(cut.expected_missed)} wrong ones stay.`;
    } catch (error) {
      complain(error);
    }
  }, 60);
}

at("cut").elements.threshold.addEventListener("input", (event) => {
  threshold = Number(event.target.value);
  at("threshold-says").textContent = event.target.value;
  showCut();
  draw();
});

at("cut").addEventListener("submit", (event) => {
  event.preventDefault();
  at("export").disabled = true;
  say("Writing …");
  step(async () => {
    try {
      const written = await ask("api/export", { threshold });
      say(`Written to ${written.folder}: ${counted(written.keep)} kept, ${counted(written["re-pair"])} re-paired, ` +
        `${counted(written.drop)} dropped`);
      const most = 4;
      const more = written.files.length > most ? ` and ${counted(written.files.length - most)} more` : "";
      at("written-files").textContent = `${written.files.slice(0, most).join(", ")}${more}`;
      at("written-path").value = written.path;
      at("written").hidden = false;
    } finally {
      at("export").disabled = false;
    }
  }, () => say(""));
});

at("copy-path").addEventListener("click", async () => {
  at("written-path").select(); // to be copied by hand where the browser does not let the page
  try {
    await navigator.clipboard.writeText(at("written-path").value);
    say("The path is copied");
  } catch {
    say("The path is selected: copy it with Ctrl+C");
  }
});

// ── Keys, clicks, scrolling ──────────────────────────────────────────────────────────────────────────────────────────

function onKey(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isTyped = isTyping(event.target);
  if (isTyped && key === "Escape") {
    event.preventDefault();
    if (event.target.name !== "text" || event.target.value === "") { moveTo(list.focus); return; }
    event.target.value = "";
    clearTimeout(filterTimer);
    reload().then(() => moveTo(0));
    return;
  }
  if (isTyped || at("keys").open || at("finder").open || event.altKey) return;
  if (event.ctrlKey || event.metaKey) {
    if (key !== "z" && key !== "y") return;
    event.preventDefault();
    undoOrRedo(key === "y" || event.shiftKey ? "redo" : "undo");
    return;
  }
  const { columns } = layout();
  const isOnButton = event.target.closest("button, summary, a") !== null;
  const actions = {
    k: () => decide("keep"),
    d: () => decide("drop"),
    r: () => decide("re-pair"),
    c: () => decide("clear"),
    f: findImage,
    u: () => undoOrRedo(event.shiftKey ? "redo" : "undo"),
    j: () => moveTo(list.focus - 1),
    l: () => moveTo(list.focus + 1),
    ArrowLeft: () => moveTo(list.focus - 1),
    ArrowRight: () => moveTo(list.focus + 1),
    ArrowUp: () => moveTo(list.focus - columns),
    ArrowDown: () => moveTo(list.focus + columns),
    Home: () => moveTo(0),
    End: () => moveTo(list.total - 1),
    "/": () => { at("closer").close(); at("filters").elements.text.focus(); },
    "?": () => at("keys").showModal(),
    Enter: isOnButton ? null : () => (at("closer").open ? at("closer").close() : lookCloser()),
  };
  if (!actions[key]) return;
  event.preventDefault();
  actions[key]();
}

function onCardClick(event) {
  const card = event.target.closest(".card");
  if (card === null) return;
  list.focus = Number(card.dataset.place);
  draw();
  const action = event.target.closest("[data-action]")?.dataset.action;
  if (action === "find") findImage();
  else if (action) decide(action);
  else if (event.target.closest(".frame img")) lookCloser();
  else card.focus({ preventScroll: true });
}

// Those of an issue are all to be looked at, and those that belong together side by side.
function onIssue(issue) {
  const { which, order } = at("filters").elements;
  const grouped = order.querySelector('[value="grouped"]');
  grouped.hidden = grouped.disabled = issue === "";
  order.value = issue ? "grouped" : "suspicious";
  which.value = issue || !isKnown ? "" : "suspects";
}

let filterTimer;
at("filters").elements.issue.addEventListener("input", (event) => onIssue(event.target.value));
at("filters").addEventListener("input", () => { clearTimeout(filterTimer); filterTimer = setTimeout(reload, 200); });
at("filters").addEventListener("submit", (event) => { event.preventDefault(); reload().then(() => moveTo(0)); });
at("undo").addEventListener("click", () => undoOrRedo("undo"));
at("redo").addEventListener("click", () => undoOrRedo("redo"));
at("refresh").addEventListener("click", () => reload().then(() => moveTo(0)));
at("help").addEventListener("click", () => at("keys").showModal());
at("cards").addEventListener("click", onCardClick);
at("closer").addEventListener("click", (event) => {
  const action = event.target.closest("[data-action]")?.dataset.action;
  if (action === "close" || event.target === at("closer")) at("closer").close();
  else if (action === "find") findImage();
  else if (action) decide(action);
});
at("closer").addEventListener("close", () => { if (!at("finder").open) moveTo(list.focus); });
at("finder").addEventListener("click", (event) => {
  if (event.target === at("finder") || event.target.closest('[data-action="close"]')) at("finder").close();
});
at("finder").addEventListener("close", () => moveTo(list.focus));
document.querySelector(".sections").addEventListener("click", (event) => {
  const by = Number(event.target.closest("[data-section]")?.dataset.section ?? 0);
  if (by) moveTo((list.section + by) * SECTION);
});
document.addEventListener("keydown", onKey);

let isDue = false;
function drawSoon() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => { isDue = false; draw(); });
}
window.addEventListener("scroll", drawSoon, { passive: true });
window.addEventListener("resize", drawSoon);

if (window.matchMedia("(max-width: 700px)").matches) {
  for (const panel of document.querySelectorAll(".panel")) panel.open = false; // the pairs come first
}
showCut();
reload().then(() => { if (list.total) cards.get(0)?.focus({ preventScroll: true }); });
