// Names for screen readers that Gradio's own parts lack or hide behind others.
() => {
  const mend = () => {
    document.querySelectorAll("#samples button.gallery-item").forEach((button) => {
      const file = decodeURI(button.querySelector("img")?.src ?? "").split("/").pop();
      button.setAttribute("aria-label", `Take the sample ${file.replace(/^\d+_|\.\w+$/g, "")}`);
    });
    document.querySelectorAll("button.thumbnail-item .caption-label").forEach((caption) => {
      caption.closest("button").setAttribute("aria-label", caption.textContent);
      caption.closest("button").querySelector("img")?.setAttribute("alt", "");
    });
    document.querySelectorAll("#pair img").forEach((image, place) => {
      image.alt = ["The original", "The reconstruction"][place % 2];
    });
    document.querySelectorAll("button[aria-label='Click to upload or drop files']").forEach((button) => {
      if (button.innerText.trim()) button.removeAttribute("aria-label");
    });
    document.querySelectorAll("div.empty[aria-label]").forEach((place) => place.setAttribute("role", "img"));
  };
  new MutationObserver(mend).observe(document.body, { childList: true, characterData: true, subtree: true });
  mend();
}
