/* Browsers start no worker for a page that was opened from a folder. There an invisible frame runs the theme's search script.
   The theme asks for `IFrameWorker` in the parent, and for an importScripts that may be waited for. */
"use strict";
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inner = frame.contentWindow;
      const page = frame.contentDocument;
      inner.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => new Promise((loaded, failed) => {
          const script = page.createElement("script");
          script.src = source;
          script.onload = loaded;
          script.onerror = failed;
          page.body.append(script);
        })), Promise.resolve());
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner = inner;
      this.ready = inner.importScripts(url);
    }
    postMessage(data) {
      this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }
    terminate() {}
  };
  window.Worker = window.IFrameWorker;
}
