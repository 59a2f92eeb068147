"use strict";
// The search page: one search, whose query stands in the address, so that going back shows the search before.

let isGoingBack = false;
const shownOf = new Map(); // a picture that was dropped, by its key: too long for an address

const search = new Search(document.querySelector("main"), {
  looked: (query, offset) => {
    if (query.picture !== undefined) shownOf.set(query.picture, query.shown);
    if (isGoingBack) return;
    const asked = new URLSearchParams();
    for (const name of ["text", "like", "picture", "find", "where", "name"]) if (query[name]) asked.set(name, query[name]);
    if (query.like !== undefined && query.shown) asked.set("shown", query.shown);
    if (offset) asked.set("offset", offset);
    const address = `${location.pathname}#${asked}`;
    if (location.hash.slice(1) !== asked.toString()) history.pushState(null, "", address);
  },
});

async function fromAddress() {
  const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const { offset, ...query } = asked;
  if (query.picture !== undefined) query.shown = shownOf.get(query.picture);
  if (query.shown !== undefined && !/^(found\/|data:image\/)/.test(query.shown)) delete query.shown;
  isGoingBack = true;
  try {
    await search.look(query, Number(offset) || 0);
  } finally {
    isGoingBack = false;
  }
}

at("help").addEventListener("click", () => at("keys").showModal());
window.addEventListener("popstate", fromAddress);
fromAddress().then(() => document.querySelector('.ask input[name="text"]').focus());
