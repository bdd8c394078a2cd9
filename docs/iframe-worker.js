// Browsers start no Worker for pages that are opened from a disk. There the search runs in a hidden frame instead, behind a Worker's interface.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.waiting = []
      const frame = document.createElement('iframe')
      frame.hidden = true
      document.documentElement.append(frame)
      const inside = frame.contentWindow
      // What the search says goes out, as from a Worker.
      inside.postMessage = data => this.dispatchEvent(new MessageEvent('message', {data}))
      this.send = data => inside.dispatchEvent(new MessageEvent('message', {data}))
      const script = frame.contentDocument.createElement('script')
      script.src = url
      script.onload = () => {
        this.waiting.forEach(this.send)
        this.waiting = null
      }
      frame.contentDocument.body.append(script)
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.send(data)
    }

    terminate() {}
  }
}
