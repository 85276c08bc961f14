/** Runs effects of these packages, an older Effect 3, as `../clients/driver/effect3.mjs` does those of 0.4.0. */
import { Cause, Effect, Exit, Option, Runtime } from '@livestore/utils/effect'

import { died, expected, interrupted } from '../clients/driver/errors.mjs'

/**
 * @param {Effect.Effect<any, any>} effect
 * @returns {Promise<any>} Rejects with a `ClientFailure`.
 */
export const run = async (effect) => {
  const exit = await Effect.runPromiseExit(effect)
  if (Exit.isSuccess(exit)) return exit.value
  throw failureOf(exit.cause)
}

/** @param {Cause.Cause<unknown>} cause */
export const failureOf = (cause) => {
  const error = Cause.failureOption(cause)
  if (Option.isSome(error)) return expected(error.value)
  return Cause.isInterruptedOnly(cause) ? interrupted() : died(Cause.squash(cause))
}

/**
 * The same for what the promises of LiveStore's own API reject with.
 *
 * @param {unknown} error
 */
export const failureOfRejection = (error) =>
  Runtime.isFiberFailure(error) ? failureOf(error[Runtime.FiberFailureCauseId]) : error
