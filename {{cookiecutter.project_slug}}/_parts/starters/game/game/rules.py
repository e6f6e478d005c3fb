"""The rules of four in a row, as pure functions: no database, clock or WebSocket."""

from dataclasses import dataclass, replace
from itertools import cycle

COLUMNS, ROWS = 7, 6
OPPONENT = {"red": "yellow", "yellow": "red"}
# The four cells of each possible line. Cells are numbered row by row, from the top left.
LINES = [
    [(row + step * down) * COLUMNS + column + step * right for step in range(4)]
    for row in range(ROWS)
    for column in range(COLUMNS)
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
    if row + 3 * down < ROWS and 0 <= column + 3 * right < COLUMNS
]


class RuleError(Exception):
    """The rules do not allow an action. The exception's message is sent to the player."""


@dataclass(frozen=True)
class Game:
    red_id: int  # of a user
    yellow_id: int | None = None  # None while the seat is free
    first: str = "red"  # the color that moves first
    moves: str = ""  # the column of each move: a digit from 0 to 6
    result: str = ""  # line, draw, resignation or timeout; empty until the game ends
    winner: str = ""  # a color; empty after a draw
    rematch: str = ""  # the color that has offered a rematch

    @property
    def turn(self) -> str:
        """The color whose turn it is; empty unless a game is in progress."""
        if self.yellow_id is None or self.result:
            return ""
        return self.first if len(self.moves) % 2 == 0 else OPPONENT[self.first]

    @property
    def discs(self) -> dict[int, str]:
        """The color of each cell that has a disc, in the order of the moves."""
        discs: dict[int, str] = {}
        for column, color in zip(self.moves, cycle((self.first, OPPONENT[self.first]))):
            cell = (ROWS - 1) * COLUMNS + int(column)
            while cell in discs:
                cell -= COLUMNS
            discs[cell] = color
        return discs

    @property
    def line(self) -> list[int]:
        """The cells of all complete lines. One move can complete several."""
        discs = self.discs
        complete = [line for line in LINES if len({discs.get(cell, cell) for cell in line}) == 1]
        return sorted({cell for line in complete for cell in line})

    def color_of(self, player: int) -> str:
        """Return the color of the player; empty for a spectator."""
        return "red" if player == self.red_id else "yellow" if player == self.yellow_id else ""


def play(game: Game, player: int, action: object, column: object, opponent_away: bool) -> Game:
    """Return the game after the player's action. Raises RuleError if it is not allowed."""
    color = game.color_of(player)
    match action:
        case "sit" if not color and game.yellow_id is None:
            return replace(game, yellow_id=player)
        case "sit":
            raise RuleError("You already have a seat." if color else "Both seats are taken.")
        case "drop" | "resign" | "claim" | "rematch" if not color:
            raise RuleError("Only the two players can do that.")
        case "rematch" if game.result and game.rematch == OPPONENT[color]:
            return Game(game.red_id, game.yellow_id, first=OPPONENT[game.first])
        case "rematch" if game.result and not game.rematch:
            return replace(game, rematch=color)
        case "rematch":
            raise RuleError("You already offered it." if game.rematch else "The game is not over.")
        case "drop" | "resign" | "claim" if not game.turn:
            raise RuleError("No game is in progress.")
        case "drop" if type(column) is not int or not 0 <= column < COLUMNS:
            raise RuleError(f"The column must be a number from 0 to {COLUMNS - 1}.")
        case "drop" if color != game.turn:
            raise RuleError("It is not your turn.")
        case "drop" if game.moves.count(str(column)) == ROWS:
            raise RuleError("This column is full.")
        case "drop":
            moved = replace(game, moves=f"{game.moves}{column}")
            if moved.line:
                return replace(moved, result="line", winner=color)
            return replace(moved, result="draw") if len(moved.moves) == COLUMNS * ROWS else moved
        case "resign":
            return replace(game, result="resignation", winner=OPPONENT[color])
        case "claim" if opponent_away:
            return replace(game, result="timeout", winner=color)
        case "claim":
            raise RuleError("Your opponent is still here.")
    raise RuleError("Unknown action. Use sit, drop, resign, claim or rematch.")
