/** The browsers of the system, driven by puppeteer: Chromium by DevTools, Firefox by WebDriver BiDi. */
import puppeteer from 'puppeteer-core'

/** @param {'chrome' | 'firefox'} kind */
export const launch = (kind, timeout) =>
  puppeteer.launch(
    kind === 'firefox'
      ? { browser: 'firefox', executablePath: '/usr/bin/firefox-esr', timeout }
      : { executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu'], timeout },
  )
