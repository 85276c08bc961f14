/** Errors in the form in which a test reads them: `{"_tag", …the fields of the error, "message"}`. */

/**
 * Carries an error of a client, already in plain form, out of a driver's method.
 */
export class ClientFailure extends Error {
  /** @param {{ _tag: string, message: string }} plain */
  constructor(plain) {
    super(plain.message)
    this.plain = plain
  }
}

/**
 * An expected error of a client, with its fields; errors inside it (`cause`, `reason`) come in the same form.
 *
 * @param {unknown} error
 */
export const expected = (error) => new ClientFailure(toPlain(error))

/**
 * A defect: an error that the client did not foresee, or a bug in it, in the server or in the driver.
 *
 * @param {unknown} defect
 */
export const died = (defect) =>
  new ClientFailure({ _tag: 'Die', message: defect instanceof Error ? defect.message : inline(defect) })

/** A call that was cut short, because its client was closed meanwhile. */
export const interrupted = () => new ClientFailure({ _tag: 'Interrupt', message: 'The call was interrupted' })

/**
 * A request that the driver cannot serve: a mistake in the test.
 *
 * @param {string} message
 * @returns {never}
 */
export const refuse = (message) => {
  throw new Error(message)
}

/**
 * @param {unknown} thrown What a method of a driver threw.
 * @returns {{ _tag: string, message: string }}
 */
export const answerFor = (thrown) => (thrown instanceof ClientFailure ? thrown : died(thrown)).plain

/**
 * @param {unknown} value An error, or any value inside of one.
 * @returns {any} The same as plain JSON data.
 */
export const toPlain = (value) => {
  if (!(value instanceof Error)) return inJson(value)
  const plain = { _tag: value._tag ?? value.name }
  for (const key of fieldsOf(value)) plain[key] = toPlain(value[key])
  return { ...plain, message: value.message }
}

/** `cause` is not enumerable on an `Error`; keys with a tilde are Effect's brands. */
const fieldsOf = (error) =>
  [...new Set([...Object.keys(error), 'cause'])].filter(
    (key) => key !== '_tag' && !key.startsWith('~') && error[key] !== undefined,
  )

/** A value in an error may be anything: a function, a socket, a cycle. Such a value is better described than lost. */
const inJson = (value) => {
  try {
    return JSON.parse(JSON.stringify(value) ?? 'null')
  } catch {
    return String(value)
  }
}

const inline = (value) => (typeof value === 'string' ? value : JSON.stringify(inJson(value)))
