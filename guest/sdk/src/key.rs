//! Keys: rights to send messages to one object.

use core::mem::ManuallyDrop;
use core::time::Duration;

use alloc::vec::Vec;

use district_protocol::frame::{FLAG_BADGE, FLAG_ONCE, FLAG_WEAK, RequestKind};
use district_protocol::handle::Handle;
use district_protocol::operation::KeyKind;
use district_protocol::rights::Rights;
use district_protocol::shim::NO_DEADLINE;

use crate::boot::{self, Connection};
use crate::channel::{self, Completion, KeyName, Outgoing};
use crate::{Error, Invocation};

/// A key that this district holds. Dropping it gives the key up, soon and without waiting.
#[derive(Debug, PartialEq, Eq)]
pub struct Key {
    name: KeyName,
}

impl Key {
    /// The bootstrap key: there at every start and restart, and as long as the district lives.
    pub fn bootstrap() -> Key {
        Key::received(Handle::BOOTSTRAP, boot::connection())
    }

    /// The key with this handle, for programs that keep account of handles themselves. That such a key exists is for
    /// the broker to say: using one that does not is [`Error::NoKey`].
    pub fn from_handle(handle: Handle) -> Key {
        Key::received(handle, boot::connection())
    }

    /// A key that came on this connection, which may have ended since.
    pub(crate) fn received(handle: Handle, connection: Connection) -> Key {
        Key { name: KeyName { handle, connection } }
    }

    pub(crate) fn received_all(handles: impl IntoIterator<Item = Handle>, connection: Connection) -> Vec<Key> {
        handles.into_iter().map(|handle| Key::received(handle, connection)).collect()
    }

    pub(crate) fn name(&self) -> KeyName {
        self.name
    }

    /// The number by which the broker knows the key.
    pub fn handle(&self) -> Handle {
        self.name.handle
    }

    /// Forgets the key without giving it up, and says what it was.
    pub(crate) fn into_name(self) -> KeyName {
        ManuallyDrop::new(self).name
    }

    /// A call of this key's object: sent and answered.
    pub fn call<'a>(&self, operation: u64, data: &'a [u8]) -> Invocation<'a> {
        Invocation::new(RequestKind::Call, Some(self.name), operation, data)
    }

    /// A message to this key's object that wants no answer. It has succeeded when it is queued there.
    pub fn send<'a>(&self, operation: u64, data: &'a [u8]) -> Invocation<'a> {
        Invocation::new(RequestKind::Send, Some(self.name), operation, data)
    }

    /// Sets bits at this notify key's object.
    pub fn notify(&self, bits: u64) -> Invocation<'static> {
        Invocation::new(RequestKind::Notify, Some(self.name), bits, &[])
    }

    /// The answer to the call that this reply key stands for. If it cannot be sent the caller gets none.
    pub fn reply<'a>(self, result: u64, data: &'a [u8]) -> Invocation<'a> {
        Invocation::reply(Some(self), result, data)
    }

    /// A child of this key, with rights and badge as given.
    pub fn derive(&self) -> Derive {
        Derive { parent: self.name, rights: None, badge: None, flags: 0, expires: None }
    }

    /// Gives the key up at once, and waits until it is gone. Dropping it does the same later.
    ///
    /// # Errors
    /// [`Error::Denied`] for the bootstrap key.
    pub fn give_up(self) -> Result<(), Error> {
        manage(&Outgoing::new(RequestKind::Drop, Some(self.into_name()))).map(drop)
    }

    /// Breaks all keys derived from this one, wherever they are. When it returns, nothing more comes through them.
    ///
    /// # Errors
    /// [`Error::Denied`] without the right `REVOKE`.
    pub fn revoke(&self) -> Result<(), Error> {
        self.manage(RequestKind::Revoke, 0).map(drop)
    }

    /// Asks for one [`crate::Event::Down`] with this cookie when the key breaks.
    ///
    /// # Errors
    /// [`Error::Denied`] without the right `WATCH`, [`Error::Broken`] if it is broken already.
    pub fn watch(&self, cookie: u64) -> Result<(), Error> {
        self.manage(RequestKind::Watch, cookie).map(drop)
    }

    /// What the key is, and what it lets its holder do. The kind is `None` if this program's ABI has none of that
    /// number.
    ///
    /// # Errors
    /// [`Error::Broken`], [`Error::NoKey`].
    pub fn identify(&self) -> Result<(Option<KeyKind>, Rights), Error> {
        let result = self.manage(RequestKind::Identify, 0)?.result;
        let [kind, a, b, c, rights @ ..] = result.to_le_bytes();
        let kind = if [a, b, c] == [0; 3] { KeyKind::from_raw(kind) } else { None };
        Ok((kind, Rights(u32::from_le_bytes(rights))))
    }

    fn manage(&self, kind: RequestKind, argument: u64) -> Result<Completion, Error> {
        manage(&Outgoing { argument, ..Outgoing::new(kind, Some(self.name)) })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        if self.name.handle != Handle::BOOTSTRAP {
            channel::with(|channel| channel.drop_later(self.name));
        }
    }
}

/// Sends a request that the broker answers by itself, and waits for that.
pub(crate) fn manage(outgoing: &Outgoing<'_>) -> Result<Completion, Error> {
    channel::with(|channel| {
        let token = channel.submit(outgoing, &mut Vec::new(), Some(NO_DEADLINE))?;
        channel.wait_for(token, NO_DEADLINE).unwrap_or(Err(Error::WouldBlock))
    })
}

/// How a child of a key shall be. Rights that are not named are those of the parent.
#[derive(Debug, Clone, Copy)]
pub struct Derive {
    parent: KeyName,
    rights: Option<Rights>,
    badge: Option<u64>,
    flags: u8,
    expires: Option<Duration>,
}

impl Derive {
    /// With these rights, which must be among the parent's.
    #[must_use]
    pub fn rights(mut self, rights: Rights) -> Self {
        self.rights = Some(rights);
        self
    }

    /// With this badge, which the object's exporter sees with every message. The parent must have none.
    #[must_use]
    pub fn badge(mut self, badge: u64) -> Self {
        self.badge = Some(badge);
        self
    }

    /// Usable once.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.flags |= FLAG_ONCE;
        self
    }

    /// Weak: what is fetched through it can only be read.
    #[must_use]
    pub fn weak(mut self) -> Self {
        self.flags |= FLAG_WEAK;
        self
    }

    /// Broken after this time.
    #[must_use]
    pub fn expires(mut self, after: Duration) -> Self {
        self.expires = Some(after);
        self
    }

    /// Makes the child.
    ///
    /// # Errors
    /// [`Error::Denied`] without the right `DERIVE`, for more rights than the parent's, or a second badge;
    /// [`Error::TooDeep`]; [`Error::Quota`].
    pub fn make(self) -> Result<Key, Error> {
        let rights = match self.rights {
            Some(rights) => rights,
            None => {
                let result = manage(&Outgoing::new(RequestKind::Identify, Some(self.parent)))?.result;
                let [_, _, _, _, rights @ ..] = result.to_le_bytes();
                Rights(u32::from_le_bytes(rights))
            }
        };
        let outgoing = Outgoing {
            operation: u64::from(rights.0),
            flags: self.flags | if self.badge.is_some() { FLAG_BADGE } else { 0 },
            argument: self.badge.unwrap_or(0),
            timeout: self.expires,
            ..Outgoing::new(RequestKind::Derive, Some(self.parent))
        };
        let made = manage(&outgoing)?;
        Ok(Key::received(Handle(made.result), made.connection))
    }
}
