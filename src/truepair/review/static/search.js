"use strict";
// A search: a query in words, a picture, or "more like this", and its hits, a page of them at a time. The server ranks a
// query once, so a page is as quick at a million images as at a hundred.

const HITS_A_PAGE = 48;

class Search {
  // root: an element around what search_panel.html makes. options.choose(hit): what to do with a hit that is chosen;
  // options.looked(query): is told of every search.
  constructor(root, options = {}) {
    this.root = root;
    this.panel = root.querySelector(".search");
    this.form = this.panel.querySelector("form");
    this.larger = this.panel.querySelector(".larger");
    this.options = options;
    this.query = {};
    this.offset = 0;
    this.total = 0;
    this.found = [];
    this.focus = 0;
    this.version = 0;
    this.listen();
  }

  part(name) { return this.panel.querySelector(name); }

  listen() {
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    this.form.elements.find.addEventListener("input", () => this.submit());
    this.form.elements.picture.addEventListener("change", (event) => this.take(event.target.files[0]));
    this.part(".hits").addEventListener("click", (event) => this.onClick(event));
    this.part(".pages").addEventListener("click", (event) => this.turn(Number(event.target.closest("[data-page]")?.dataset.page ?? 0)));
    this.larger.addEventListener("click", (event) => {
      const asked = event.target.closest("[data-hit]")?.dataset.hit;
      if (event.target === this.larger || asked) this.larger.close();
      if (asked) this.act(asked);
    });
    this.larger.addEventListener("close", () => this.moveTo(this.focus));
    const target = this.root.tagName === "DIALOG" ? this.root : document;
    target.addEventListener("keydown", (event) => this.onKey(event));
    target.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
      if (file) { event.preventDefault(); this.take(file); }
    });
    target.addEventListener("dragover", (event) => { event.preventDefault(); this.panel.classList.add("dropping"); });
    target.addEventListener("dragleave", () => this.panel.classList.remove("dropping"));
    target.addEventListener("drop", (event) => {
      event.preventDefault();
      this.panel.classList.remove("dropping");
      const file = event.dataTransfer.files[0];
      if (file) this.take(file);
      else this.complain(new Error("What was dropped is no file: save the picture, and drop the file"));
    });
  }

  // ── Asking ─────────────────────────────────────────────────────────────────────────────────────────────────────────

  submit() {
    const text = this.form.elements.text.value.trim();
    const find = this.form.elements.find.value;
    const kept = text === "" && (this.query.like || this.query.picture) ? this.query : {};
    const query = text === "" ? { like: kept.like, picture: kept.picture, shown: kept.shown, name: kept.name } : { text };
    return this.look({ ...query, find, where: this.form.elements.where.value.trim() });
  }

  // Search from the first hit on, and show that the form asks it.
  async look(query, offset = 0) {
    const isCaption = query.find === undefined && query.picture !== undefined;
    this.query = { ...query, find: query.find ?? (isCaption ? "captions" : "images") };
    this.form.elements.text.value = query.text ?? "";
    this.form.elements.find.value = this.query.find;
    this.form.elements.where.value = query.where ?? "";
    this.options.looked?.(this.query, offset);
    await this.show(offset);
  }

  async show(offset) {
    const version = ++this.version;
    const { text, like, picture, find, where } = this.query;
    this.say("Searching …");
    try {
      const answer = await ask("api/search", { text, like, picture, find, where, offset, limit: HITS_A_PAGE });
      if (version !== this.version) return; // asked for something else meanwhile
      Object.assign(this, { offset, total: answer.total, found: answer.hits, focus: 0 });
      this.draw(answer);
    } catch (error) {
      if (version === this.version) this.complain(error);
    }
  }

  async take(file) {
    if (!file) return;
    this.say(`Reading ${file.name || "the picture"} …`);
    try {
      const { picture } = await ask("api/picture", file);
      await this.look({ picture, name: file.name || "a picture", shown: await addressOf(file) });
    } catch (error) {
      this.complain(new Error(file.name ? `${file.name}: ${error.message}` : error.message));
    } finally {
      this.form.elements.picture.value = "";
    }
  }

  async turn(by) {
    const offset = this.offset + by * HITS_A_PAGE;
    if (by === 0 || offset < 0 || offset >= this.total) return;
    this.options.looked?.(this.query, offset);
    await this.show(offset);
    this.panel.scrollIntoView();
    this.moveTo(0);
  }

  // ── Showing ────────────────────────────────────────────────────────────────────────────────────────────────────────

  say(text) {
    this.part(".says").textContent = text;
    this.part(".wrong").hidden = true;
  }

  complain(error) {
    this.say("");
    this.part(".wrong").textContent = error.message;
    this.part(".wrong").hidden = false;
  }

  draw(answer) {
    const { like, picture, name, shown } = this.query;
    const isOther = like !== undefined || picture !== undefined;
    this.part(".query").hidden = !isOther;
    if (isOther) this.part(".query span").textContent = like === undefined ? name ?? "a picture" : `like ${like}`;
    this.part(".query img").hidden = !(isOther && shown);
    if (isOther && shown) this.part(".query img").src = shown;
    const kinds = answer.find === "images" ? ["image", "images"] : ["caption", "captions"];
    const isAll = !isOther && this.query.text === undefined;
    const what = `${pluralOf(answer.total, ...kinds)}${isAll ? "" : ", best first"}`;
    this.say([answer.total === 0 ? `No ${kinds[0]} passes the filter` : what, ...answer.said].join(". "));
    const says = answer.fits === false
      ? "Nothing here seems to fit: the best hits score less than those of nearly all of this index’s own pairs." : "";
    this.part(".warning").textContent = says;
    this.part(".warning").hidden = !says;
    this.part(".hits").replaceChildren(...this.found.map((hit, place) => this.card(hit, place)));
    this.pages();
  }

  card(hit, place) {
    const card = this.part("template").content.firstElementChild.cloneNode(true);
    card.dataset.place = place;
    this.fill(card, hit, SMALL);
    card.querySelector(".caption").textContent = hit.caption ?? "";
    card.querySelector(".caption").title = hit.caption ?? "";
    card.querySelector(".bar").hidden = hit.probability === null;
    card.querySelector(".bar span").style.width = `${100 * (hit.probability ?? 0)}%`;
    card.setAttribute("aria-label", `${hit.rank}: ${hit.caption ?? hit.id}`);
    return card;
  }

  fill(where, hit, side) {
    where.querySelector(".rank").textContent = counted(hit.rank);
    const score = hit.score === null ? "" : `score ${hit.score.toFixed(3)}`;
    const percent = hit.probability === null ? score : percentOf(hit.probability);
    where.querySelector(".probability").textContent = percent;
    where.querySelector(".probability").title = score;
    picture(where.querySelector("figure"), { id: hit.image_id, picture: hit.picture }, "", side);
    if (hit.id !== hit.image_id) where.querySelector(".id").title = `${hit.id} of ${hit.image_id}`;
  }

  pages() {
    const nav = this.part(".pages");
    nav.hidden = this.total <= HITS_A_PAGE;
    const last = Math.min(this.total, this.offset + HITS_A_PAGE);
    nav.querySelector("span").textContent = `${counted(this.offset + 1)} to ${counted(last)} of ${counted(this.total)}`;
    nav.querySelector('[data-page="-1"]').disabled = this.offset === 0;
    nav.querySelector('[data-page="1"]').disabled = last >= this.total;
  }

  async lookCloser() {
    const hit = this.found[this.focus];
    if (hit === undefined) return;
    this.fill(this.larger, hit, LARGE);
    this.larger.querySelector(".captions").replaceChildren(itemOf(hit.caption ?? ""));
    if (!this.larger.open) this.larger.showModal();
    try {
      const { captions } = await ask(`api/images/${hit.image}`);
      if (this.found[this.focus] === hit) this.larger.querySelector(".captions").replaceChildren(...captions.map(itemOf));
    } catch (error) {
      this.complain(error);
    }
  }

  // ── Moving and choosing ────────────────────────────────────────────────────────────────────────────────────────────

  moveTo(place) {
    if (this.found.length === 0) return;
    this.focus = Math.max(0, Math.min(this.found.length - 1, place));
    for (const card of this.part(".hits").children) {
      const isNow = Number(card.dataset.place) === this.focus;
      card.classList.toggle("now", isNow);
      card.tabIndex = isNow ? 0 : -1;
      for (const button of card.querySelectorAll("button")) button.tabIndex = isNow ? 0 : -1;
    }
    if (this.larger.open) this.lookCloser();
    else this.part(".hits").children[this.focus].focus();
  }

  columns() {
    return getComputedStyle(this.part(".hits")).gridTemplateColumns.split(" ").length;
  }

  act(name) {
    const hit = this.found[this.focus];
    if (hit === undefined || name === "close") return;
    const where = this.form.elements.where.value.trim();
    const shown = hit.picture === null ? undefined : `${hit.picture}&size=${SMALL}`;
    if (name === "choose") this.options.choose?.(hit);
    if (name === "like") this.look({ like: hit.image_id, find: "images", where, shown }).then(() => this.moveTo(0));
    if (name === "captions") this.look({ like: hit.image_id, find: "captions", where, shown }).then(() => this.moveTo(0));
  }

  onClick(event) {
    const card = event.target.closest(".hit");
    if (card === null) return;
    this.focus = Number(card.dataset.place);
    const asked = event.target.closest("[data-hit]")?.dataset.hit;
    if (asked) { this.act(asked); return; }
    this.moveTo(this.focus);
    if (event.target.closest(".frame img")) this.lookCloser();
  }

  onKey(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.altKey || event.ctrlKey || event.metaKey || at("keys")?.open) return;
    if (isTyping(event.target)) {
      if (key === "Escape") { event.preventDefault(); this.moveTo(this.focus); }
      return;
    }
    const isOnButton = event.target.closest("button, summary, a") !== null;
    const columns = this.columns();
    const close = () => this.larger.close();
    const actions = {
      m: () => { close(); this.act("like"); },
      c: () => { close(); this.act("captions"); },
      r: this.options.choose ? () => { close(); this.act("choose"); } : null,
      n: () => this.turn(1),
      p: () => this.turn(-1),
      j: () => this.moveTo(this.focus - 1),
      l: () => this.moveTo(this.focus + 1),
      ArrowLeft: () => this.moveTo(this.focus - 1),
      ArrowRight: () => this.moveTo(this.focus + 1),
      ArrowUp: () => this.moveTo(this.focus - columns),
      ArrowDown: () => this.moveTo(this.focus + columns),
      Home: () => this.moveTo(0),
      End: () => this.moveTo(this.found.length - 1),
      "/": () => { close(); this.form.elements.text.focus(); this.form.elements.text.select(); },
      "?": () => at("keys")?.showModal(),
      Enter: isOnButton ? null : () => (this.larger.open ? close() : this.lookCloser()),
    };
    if (!actions[key]) return;
    event.preventDefault();
    event.stopPropagation(); // a key that closes a dialog is not one of the page below
    actions[key]();
  }
}

function itemOf(text) {
  const item = document.createElement("li");
  item.textContent = text;
  item.dir = "auto";
  return item;
}

function addressOf(file) {
  return new Promise((done) => {
    const reader = new FileReader();
    reader.addEventListener("loadend", () => done(typeof reader.result === "string" ? reader.result : undefined));
    reader.readAsDataURL(file);
  });
}
