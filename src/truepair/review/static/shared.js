"use strict";
// What the pages have in common. Captions and names reach the document as text only.

const SMALL = 320, LARGE = 1024; // pixels of a picture's longer side

const at = (id) => document.getElementById(id);
const counted = (number) => Math.round(number).toLocaleString("en");
const pluralOf = (number, one, many) => `${counted(number)} ${Math.round(number) === 1 ? one : many}`;

// Ask the server: with a body it is sent, as JSON or, if it is a file, as it is.
async function ask(path, body) {
  const isFile = body instanceof Blob;
  const headers = { "Content-Type": isFile ? "application/octet-stream" : "application/json" };
  const options = body === undefined ? {} : { method: "POST", headers, body: isFile ? body : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer: is the command that serves this page still running? What was decided before is saved.");
  }
  const content = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
  if (!answer.ok) throw new Error(content.error);
  return content;
}

function percentOf(probability) {
  if (probability === null) return "unknown";
  if (probability >= 0.9995) return "> 99.9 %";
  return probability < 0.0005 ? "< 0.1 %" : `${(100 * probability).toFixed(1)} %`;
}

// A figure of an image, by its name where it has no picture; nothing where there is no image.
function picture(figure, image, role, side) {
  const frame = figure.querySelector(".frame");
  const name = document.createElement("span");
  const instead = (kind, text) => {
    frame.className = frame.classList.contains("better") ? `frame better ${kind}` : `frame ${kind}`;
    name.className = kind === "empty" ? "none" : "name";
    name.textContent = text;
    frame.replaceChildren(name);
  };
  figure.querySelector(".role").textContent = role;
  figure.querySelector(".id").textContent = image?.id ?? "";
  figure.querySelector(".id").title = image?.id ?? "";
  if (image === null) return instead("empty", "no image suggested");
  if (image.picture === null) return instead("missing", image.id);
  frame.classList.remove("missing", "empty");
  const address = `${image.picture}&size=${side}`;
  if (frame.firstElementChild?.getAttribute("src") === address) return undefined;
  const shown = document.createElement("img");
  shown.alt = `${role}: ${image.id}`;
  shown.decoding = "async";
  shown.loading = "lazy";
  shown.addEventListener("error", () => { if (frame.contains(shown)) instead("missing", image.id); });
  shown.src = address;
  return frame.replaceChildren(shown);
}

const isTyping = (element) => element.closest("input, select, textarea") !== null;
