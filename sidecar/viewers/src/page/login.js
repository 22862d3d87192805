// The page that asks for the token: takes it from the URL, else from the form.

import { createSession, takeToken } from "./token.js";

const field = document.getElementById("token"), message = document.getElementById("message");

async function login(token) {
  message.textContent = "";
  try {
    if (await createSession(token)) location.reload();
    else message.textContent = "The server refuses this token.";
  } catch {
    message.textContent = "The server does not respond.";
  }
}

function loginFromUrl() {
  const token = takeToken();
  if (token !== null) login(token);
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  login(field.value.trim());
});
addEventListener("hashchange", loginFromUrl);
loginFromUrl();
