/** Runs the effects of LiveStore's packages (Effect 3) and unwraps what they fail with. */
import { died, expected, interrupted } from './errors.mjs'

/**
 * @param {{ Cause: any, Effect: any, Exit: any, Option: any, Runtime: any }} effect Of the `@livestore/utils/effect` of the
 *   same LiveStore as what is run.
 */
export const makeRunner = ({ Cause, Effect, Exit, Option, Runtime }) => {
  /** @returns {Promise<any>} Rejects with a `ClientFailure`. */
  const run = async (effect) => {
    const exit = await Effect.runPromiseExit(effect)
    if (Exit.isSuccess(exit)) return exit.value
    throw failureOf(exit.cause)
  }

  const failureOf = (cause) => {
    const error = Cause.failureOption(cause)
    if (Option.isSome(error)) return expected(error.value)
    return Cause.isInterruptedOnly(cause) ? interrupted() : died(Cause.squash(cause))
  }

  /** The same for what the promises of LiveStore's own API reject with. */
  const failureOfRejection = (error) =>
    Runtime.isFiberFailure(error) ? failureOf(error[Runtime.FiberFailureCauseId]) : error

  return { run, failureOf, failureOfRejection }
}
