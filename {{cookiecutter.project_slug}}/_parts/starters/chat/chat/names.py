"""Under which name somebody speaks."""

import secrets


def guest_name():
    # The blank keeps it apart from all user names, which have none.
    return f"Guest {secrets.randbelow(90_000) + 10_000}"


async def name_of(user, session):
    """The user's name, or the guest's, which is kept in the session."""
    if user.is_authenticated:
        return user.get_username()
    name = await session.aget("guest_name")
    if name is None:
        name = guest_name()
        await session.aset("guest_name", name)
    return name
