//! The role that a statement runs as. What the extension owns belongs to `livestore_owner`; code that is somebody else's (hooks,
//! the views that are imported from) never runs as that role.

use std::ffi::CStr;

use pgrx::prelude::*;

use crate::session::Kept;

const OWNER: &CStr = c"livestore_owner";
const HOOKS: &CStr = c"livestore_hooks";

/// The user that was current before another one. An error restores it as well: Postgres does it when it rolls the
/// (sub)transaction back.
#[derive(Clone, Copy)]
pub struct FormerUser {
    user: pg_sys::Oid,
    context: i32,
    /// Settings that are made meanwhile are undone: a `search_path` that a hook sets must not count for the owner's statements.
    settings: Option<i32>,
}

impl FormerUser {
    fn switch(user: pg_sys::Oid, flags: u32) -> Self {
        let (mut former, mut context) = (pg_sys::Oid::INVALID, 0);
        // SAFETY: both pointers are good, and a context is bits to which others can be added.
        unsafe {
            pg_sys::GetUserIdAndSecContext(&mut former, &mut context);
            pg_sys::SetUserIdAndSecContext(user, context | flags as i32);
        }
        Self { user: former, context, settings: None }
    }

    fn keep_settings(mut self) -> Self {
        // SAFETY: it counts a level up; `restore`, or the end of the (sub)transaction, counts down.
        self.settings = Some(unsafe { pg_sys::NewGUCNestLevel() });
        self
    }

    pub fn restore(self) {
        // SAFETY: the level is the one that was begun here, and the user the one that was current before.
        unsafe {
            if let Some(level) = self.settings {
                pg_sys::AtEOXact_GUC(false, level);
            }
            pg_sys::SetUserIdAndSecContext(self.user, self.context);
        }
    }
}

/// Another current user for as long as this lives.
pub struct RunsAs {
    former: FormerUser,
    _session: Option<Kept>,
}

impl RunsAs {
    /// Switches to the role of the hooks, if the current user is the owner of the extension's objects. If not, because the
    /// database was not updated to that owner or because a superuser calls an internal function, the user stays. Settings that hooks
    /// make are undone when this is dropped. A table without hooks runs code of the application, too, if a constraint or an index
    /// calls it.
    pub fn hooks() -> Self {
        let former = match role_of_hooks() {
            Some(hooks) => FormerUser::switch(hooks, pg_sys::SECURITY_LOCAL_USERID_CHANGE),
            None => FormerUser::switch(current_user(), 0),
        };
        Self { former: former.keep_settings(), _session: Some(Kept::new()) }
    }

    fn of_session(former: FormerUser) -> Self {
        Self { former, _session: None }
    }

    /// Switches to the owner of a table or view if the current user is a superuser, as `refresh materialized view` does.
    /// Other users read it with their own rights.
    pub fn owner_of_source(source: pg_sys::Oid) -> spi::Result<Self> {
        // SAFETY: it looks the current user up.
        let owner = if unsafe { pg_sys::superuser() } {
            let owner = "select c.relowner from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) $1";
            Spi::connect(|client| {
                let found = client.select(owner, Some(1), &[source.into()])?;
                if found.is_empty() { Ok(None) } else { found.first().get_one::<pg_sys::Oid>() }
            })?
        } else {
            Some(current_user())
        };
        let Some(owner) = owner else {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("there is no table with the number {source}")
            );
        };
        let context = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        Ok(Self::of_session(FormerUser::switch(owner, context).keep_settings()))
    }

    /// The owner of the extension's objects.
    pub fn owner() -> Self {
        // SAFETY: the name ends with a NUL, and a role that does not exist may be missing.
        let owner = unsafe { pg_sys::get_role_oid(OWNER.as_ptr(), true) };
        let owner = if owner == pg_sys::Oid::INVALID { current_user() } else { owner };
        Self::of_session(FormerUser::switch(owner, pg_sys::SECURITY_LOCAL_USERID_CHANGE))
    }

    /// A superuser: to name functions in schemas that the owner of the event log may not use.
    pub fn superuser() -> Self {
        Self::of_session(FormerUser::switch(pg_sys::BOOTSTRAP_SUPERUSERID.into(), pg_sys::SECURITY_LOCAL_USERID_CHANGE))
    }
}

impl Drop for RunsAs {
    fn drop(&mut self) {
        // While an error is on its way, the end of the (sub)transaction does this.
        if !std::thread::panicking() {
            self.former.restore();
        }
    }
}

fn current_user() -> pg_sys::Oid {
    // SAFETY: it reads a variable.
    unsafe { pg_sys::GetUserId() }
}

fn role_of_hooks() -> Option<pg_sys::Oid> {
    // SAFETY: the names end with a NUL, and roles that do not exist may be missing.
    let (owner, hooks) =
        unsafe { (pg_sys::get_role_oid(OWNER.as_ptr(), true), pg_sys::get_role_oid(HOOKS.as_ptr(), true)) };
    (owner == current_user() && hooks != pg_sys::Oid::INVALID).then_some(hooks)
}
