// What is live on the pages: figures and plots, events, connected clients. Pages are whole without it.
'use strict'

const showTimes = (root) => {
  for (const time of root.querySelectorAll('time:not([data-shown])')) {
    const at = new Date(time.dateTime)
    if (Number.isNaN(at.getTime())) continue
    time.title = time.dateTime
    time.textContent = at.toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' })
    time.dataset.shown = ''
  }
}

const rounded = (value) => {
  if (value === null || value === undefined) return '–'
  return value.toLocaleString(undefined, { maximumFractionDigits: value < 10 ? 1 : 0 })
}

const say = (status, text) => {
  // Screen readers read out what is set, even if it is the same.
  if (status.textContent !== text) status.textContent = text
}

// The same as in stream.rs.
const SESSION_ENDED = 'Your session has ended: log in again.'

// Pauses before a stream is asked for again, in milliseconds.
const FIRST_PAUSE = 1000
const LONGEST_PAUSE = 30_000

// Why the server refuses a stream: an EventSource does not tell.
const refusal = async (url) => {
  const asking = new AbortController()
  const answer = await fetch(url, { signal: asking.signal }).catch(() => undefined)
  let text = 'Reconnecting…'
  if (answer?.status === 401) text = SESSION_ENDED
  // Those of a proxy may be whole pages.
  if (answer?.status === 503 && answer.headers.get('content-type')?.startsWith('text/plain')) text = await answer.text().catch(() => text)
  // It may be a stream by now, which does not end.
  asking.abort()
  return text.trim()
}

// Follows a stream: `takes` has a function for each of its events, and `lose` is called when no more come.
const follow = (url, status, takes, lose) => {
  let pause = FIRST_PAUSE
  const connect = () => {
    const stream = new EventSource(url)
    for (const [name, take] of Object.entries(takes)) {
      stream.addEventListener(name, (event) => {
        pause = FIRST_PAUSE
        say(status, 'Live')
        take(event.data)
      })
    }
    stream.addEventListener('end', (event) => {
      stream.close()
      lose()
      say(status, event.data)
    })
    stream.addEventListener('error', async () => {
      const isRefused = stream.readyState === EventSource.CLOSED
      // Not by itself: it would ask for the events behind the first one again, and it gives up for good when a proxy answers.
      stream.close()
      lose()
      say(status, 'Reconnecting…')
      if (isRefused) {
        const reason = await refusal(url)
        say(status, reason)
        // Each further attempt may count as a guess of the secret.
        if (reason === SESSION_ENDED) return
      }
      setTimeout(connect, pause)
      pause = Math.min(2 * pause, LONGEST_PAUSE)
    })
  }
  say(status, 'Connecting…')
  connect()
}

// Figures and plots of the overview.
const followFigures = (section) => {
  const titles = {}
  for (const figure of section.querySelectorAll('[data-figure]')) {
    titles[figure.dataset.figure] = figure.closest('div').querySelector('dt').textContent
  }
  const samples = []
  const colors = getComputedStyle(document.documentElement)
  const plots = [...section.querySelectorAll('[data-plot]')].map((box) => {
    const names = box.dataset.plot.split(' ')
    const axis = {
      stroke: () => colors.getPropertyValue('--quiet'),
      grid: { stroke: () => colors.getPropertyValue('--line'), width: 1 },
      ticks: { stroke: () => colors.getPropertyValue('--line'), width: 1 },
    }
    const clock = (_, moments) => moments.map((at) => new Date(at * 1000).toLocaleTimeString())
    const series = names.map((name, n) => ({
      label: titles[name] ?? name,
      stroke: () => colors.getPropertyValue(`--plot-${n + 1}`),
      width: 2,
      dash: n > 1 ? [6, 4] : undefined,
      value: (_, value) => rounded(value),
    }))
    const size = () => ({ width: Math.max(box.clientWidth - 16, 200), height: 200 })
    const options = {
      ...size(),
      series: [{ value: (_, at) => (at ? clock(_, [at])[0] : '–') }, ...series],
      axes: [{ ...axis, values: clock, space: 90 }, { ...axis, size: 56 }],
      cursor: { y: false },
    }
    const plot = new uPlot(options, [[], ...names.map(() => [])], box)
    addEventListener('resize', () => plot.setSize(size()))
    return () => plot.setData([samples.map((sample) => sample.at), ...names.map((name) => samples.map((sample) => sample[name] ?? null))])
  })
  const list = (list, rows) =>
    list.replaceChildren(
      ...rows.map(([of, count]) => {
        const [row, name, value] = ['div', 'dt', 'dd'].map((tag) => document.createElement(tag))
        name.textContent = of
        value.textContent = String(count)
        row.append(name, value)
        return row
      }),
    )
  const show = (figures) => {
    for (const figure of section.querySelectorAll('[data-figure]')) figure.textContent = rounded(figures[figure.dataset.figure])
    for (const part of section.querySelectorAll('[data-list]')) {
      const some = figures[part.dataset.list].filter(([, count]) => count > 0)
      list(part, some.length === 0 ? [['none', 0]] : some)
    }
  }
  const blank = () => {
    for (const figure of section.querySelectorAll('[data-figure]')) figure.textContent = rounded(undefined)
    for (const part of section.querySelectorAll('[data-list]')) list(part, [[rounded(undefined), '']])
  }
  const draw = () => {
    for (const plot of plots) plot()
  }
  const takes = {
    past: (data) => {
      samples.splice(0, samples.length, ...JSON.parse(data))
      draw()
    },
    figures: (data) => {
      const figures = JSON.parse(data)
      samples.push(figures)
      if (samples.length > 300) samples.shift()
      show(figures)
      draw()
    },
  }
  follow(section.dataset.live, section.querySelector('[data-status]'), takes, blank)
}

// The most rows of events on a page: older ones are read again.
const MOST_ROWS = 2000

const fragment = (rows) => {
  const template = document.createElement('template')
  template.innerHTML = rows
  showTimes(template.content)
  return template.content
}

// The link to older events begins behind the last row.
const leadOn = (link, body) => {
  const url = new URL(link.href)
  url.searchParams.set('before', body.rows[body.rows.length - 1].dataset.seq)
  link.href = url
}

// New events at the top of the table of a store.
const followEvents = (body) => {
  const url = new URL(body.dataset.follow, location.href)
  const takes = {
    // The log is read now: the answer itself comes while the database is away, too.
    following: () => {},
    rows: (data) => {
      const [head, rows] = JSON.parse(data)
      url.searchParams.set('after', head)
      const shown = document.querySelector('[data-head]')
      if (head > Number(shown.textContent)) shown.textContent = head
      if (rows === '') return
      const news = fragment(rows)
      for (const row of news.children) row.classList.add('new')
      body.prepend(news)
      document.querySelector('[data-empty]')?.remove()
      while (body.rows.length > MOST_ROWS) body.rows[body.rows.length - 1].remove()
      const link = document.querySelector('[data-more]')
      if (link !== null) leadOn(link, body)
    },
  }
  follow(url, document.querySelector('[data-status]'), takes, () => {})
}

// Older events at the end of the table, as it is scrolled.
const readOlder = (link) => {
  const body = document.querySelector('.events tbody')
  let isReading = false
  const readOn = async () => {
    const last = body.rows[body.rows.length - 1]
    // A search that took long goes on when somebody asks for it, by the link.
    if (isReading || !last || 'stopped' in last.dataset || body.rows.length >= MOST_ROWS) return
    isReading = true
    const read = await fetch(link.dataset.more + last.dataset.seq)
      .then((answer) => (answer.ok ? answer.text() : undefined))
      .catch(() => undefined)
    isReading = false
    // The link still leads on. What was the last row may be gone meanwhile.
    if (read === undefined || body.rows[body.rows.length - 1] !== last) return
    const rows = fragment(read)
    if (rows.children.length === 0) {
      seen.disconnect()
      link.remove()
      return
    }
    body.append(rows)
    leadOn(link, body)
    // Anew, because it may have been in sight all the time.
    seen.unobserve(link)
    seen.observe(link)
  }
  const seen = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && readOn(), {
    root: document.querySelector('.events'),
    rootMargin: '600px',
  })
  seen.observe(link)
}

// A part of a page that is read again while it is seen.
const refresh = (part) => {
  const readAgain = async () => {
    if (!document.hidden && !part.contains(document.activeElement)) {
      const answer = await fetch(part.dataset.refresh).catch(() => undefined)
      const read = answer?.ok ? await answer.text().catch(() => undefined) : undefined
      if (read === undefined) {
        // The old list would look like a new one.
        const problem = document.createElement('p')
        problem.textContent = answer?.status === 401 ? SESSION_ENDED : 'This cannot be read at the moment.'
        part.replaceChildren(problem)
        if (answer?.status === 401) return
      } else {
        part.replaceChildren(fragment(read))
      }
    }
    setTimeout(readAgain, 3000)
  }
  setTimeout(readAgain, 3000)
}

showTimes(document)
for (const section of document.querySelectorAll('[data-live]')) followFigures(section)
for (const body of document.querySelectorAll('[data-follow]')) followEvents(body)
for (const link of document.querySelectorAll('[data-more]')) readOlder(link)
for (const part of document.querySelectorAll('[data-refresh]')) refresh(part)
