// The viewer token in the page's URL: /#token=TOKEN. Browsers send fragments to no server, so no proxy logs it.

/** Takes the token out of the URL and its history entry; null if it has none. */
export function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(history.state, "", location.pathname + location.search);
  return token;
}

/** Exchanges the token for a session cookie. False if the server refuses the token; fails if it does not respond. */
export async function createSession(token) {
  const response = await fetch("session", { method: "POST", body: new URLSearchParams({ token }), cache: "no-store" });
  return response.ok;
}
