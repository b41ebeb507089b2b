"""Claims about the three dealers of batches: what they share, and how each shows its pictures."""

from collections import Counter

import numpy as np
import pytest
import torch

from hw2lib.data import Batches, CodeBatches, DataError, Pairs, folders


def numbered(count: int) -> torch.Tensor:
    """Pictures of 4 x 4 that show their number in the red of the left half; the green is lit there only."""
    pictures = torch.zeros(count, 3, 4, 4, dtype=torch.uint8)
    pictures[:, 0, :, :2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    pictures[:, 1, :, :2] = 200
    return pictures


def tagged(count: int, side: int = 12) -> torch.Tensor:
    """Pictures whose red tells the row, green the column and blue the picture's number."""
    planes = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    planes[:, 0] = torch.arange(side)[:, None]
    planes[:, 1] = torch.arange(side)
    planes[:, 2] = torch.arange(count)[:, None, None]
    return planes


def maps(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint16)[:, None, None].repeat(2, 1).repeat(3, 2)


# ---- what the three share

DEALERS = {
    "pictures": lambda count, size=8, seed=3: Batches(numbered(count), size, seed),
    "pairs, a larger": lambda count, size=8, seed=3: Pairs(tagged(count), tagged(20), 8, seed, size),
    "pairs, b larger": lambda count, size=8, seed=3: Pairs(tagged(20), tagged(count), 8, seed, size),
    "codes": lambda count, size=8, seed=3: CodeBatches(maps(count), np.arange(count) + 100, size, seed),
}
each_dealer = pytest.mark.parametrize("deal", DEALERS.values(), ids=DEALERS)


def parts(batch) -> tuple[torch.Tensor, ...]:
    return batch if isinstance(batch, tuple) else (batch,)


def equal(some, others) -> bool:
    """Whether two lists of batches are the same bytes."""
    one, other = ([part for batch in batches for part in parts(batch)] for batches in (some, others))
    return len(one) == len(other) and all(map(torch.equal, one, other))


def whole(batches) -> tuple[bytes, ...]:
    """An epoch as the bytes of each part."""
    return tuple(torch.cat(part).numpy().tobytes() for part in zip(*map(parts, batches), strict=True))


@each_dealer
@pytest.mark.parametrize(("count", "size", "last"), [(53, 8, 5), (56, 8, 8), (50, 1, 1), (25, 30, 25)])
def test_an_epoch_has_a_batch_for_each_step(deal, count, size, last):
    """An epoch has ceil(N / batch size) batches of that size; the last one may be short."""
    batches = deal(count, size)
    lengths = [{len(part) for part in parts(batch)} for batch in batches(0)]
    assert len(batches) == len(lengths) == -(-count // size)
    assert lengths == [{size}] * (len(batches) - 1) + [{last}]
    assert batches.smallest == last


@each_dealer
def test_the_order_depends_on_seed_and_epoch_alone(deal):
    """The same (seed, epoch) gives the same batches whatever came before; another of either gives others."""
    batches = deal(50)
    list(batches(7))
    assert equal(list(batches(1)), list(deal(50)(1)))
    epochs = [whole(deal(50, seed=seed)(epoch)) for seed in range(4) for epoch in range(4)]
    # (1, 2) and (2, 1) differ, too: the two are not summed.
    for part in zip(*epochs, strict=True):
        assert len(set(part)) == 16


@each_dealer
@pytest.mark.parametrize(("size", "skip"), [(8, 0), (8, 1), (8, 6), (8, 7), (1, 19), (1, 50)])
def test_an_epoch_goes_on_at_any_step(deal, size, skip):
    """An epoch resumed at step k gives what the whole epoch gives from step k on, augmentation included."""
    batches = deal(50, size)
    assert equal(list(batches(2, skip=skip)), list(batches(2))[skip:])


@each_dealer
@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_share_the_batch_of_one(deal, world_size):
    """Interleaved, the shares of all ranks are the batch of a single process, augmentation included."""
    batches = deal(53, 12)
    shares = [list(batches(4, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for step, alone in enumerate(batches(4)):
        for number, part in enumerate(parts(alone)):
            for rank in range(world_size):
                assert torch.equal(part[rank::world_size], parts(shares[rank][step])[number])


@each_dealer
@pytest.mark.parametrize(("count", "size", "smallest"), [(24, 1, 1), (25, 12, 1), (26, 3, 2), (24, 8, 8)])
def test_a_batch_too_small_to_share_is_said(deal, count, size, smallest):
    """A batch with fewer items than processes, be it the last or any, is refused before the first step."""
    batches = deal(count, size)
    with pytest.raises(DataError, match=f"^a batch has {smallest} pictures for {smallest + 1} processes: change"):
        next(batches(0, rank=0, world_size=smallest + 1))
    assert len(list(batches(0, world_size=smallest))) == len(batches)


@each_dealer
def test_nothing_outside_is_disturbed(deal):
    """Dealing neither uses nor disturbs torch's random numbers, and a changed batch changes no picture."""
    batches = deal(50)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = list(batches(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    for batch in first:
        for part in parts(batch):
            part.zero_()
    assert equal(list(batches(0)), list(deal(50)(0)))


@each_dealer
def test_only_what_fits_moves_to_the_device(deal, monkeypatch):
    """Small arrays are moved to the device, large ones stay where they are; batches are on the device."""
    # The meta device has shapes and no values, which is enough to see what is where.
    for large, home in ((1 << 20, "meta"), (10, "cpu")):
        monkeypatch.setattr(folders, "LARGE", large)
        batches = deal(50)
        assert {part.device.type for batch in batches(0, device="meta") for part in parts(batch)} == {"meta"}
        assert {getattr(batches, name).device.type for name in batches.arrays} == {home}


def test_a_description_tells_other_batches_apart():
    """Whatever changes the batches of a step, values of pictures aside, changes their description."""
    pictures = {"pictures": numbered(50), "batch_size": 8, "seed": 3}
    pairs = {"a": tagged(20), "b": tagged(30), "size": 8, "seed": 3, "batch_size": 4}
    codes = {"codes": maps(10), "labels": np.arange(10), "batch_size": 4, "seed": 0}
    usual_and_others = {
        Batches: (pictures, {"pictures": numbered(51)}, {"batch_size": 9}, {"seed": 4}),
        Pairs: (
            *(pairs, {"a": tagged(21)}, {"b": tagged(31)}, {"size": 9}, {"seed": 4}, {"batch_size": 5}),
            {"a": tagged(20, 13), "b": tagged(30, 13)},
        ),
        # Another encoder makes other codes, so here the values count.
        CodeBatches: (
            *(codes, {"codes": maps(10) + 1}, {"labels": np.arange(10) + 1}, {"labels": None}, {"batch_size": 5}),
            *({"seed": 1}, {"origin": {"checksum": "0"}}),
        ),
    }
    for dealer, (usual, *others) in usual_and_others.items():
        described = [str(dealer(**usual | other).description) for other in ({}, *others)]
        assert len(set(described)) == len(described)


def test_what_cannot_be_dealt_is_refused(refused):
    """Fewer than two pictures, smaller ones than the squares and labels of other maps are errors of one line."""
    for count in (0, 1):
        assert refused(Batches, numbered(count), 8, 0) == f"{count} training pictures: 2 or more are needed"
        for name, sides in {"a": (count, 5), "b": (5, count)}.items():
            message = refused(Pairs, *map(tagged, sides), 8, 0)
            assert message == f"{count} training pictures in domain {name}: 2 or more are needed"
        assert refused(CodeBatches, maps(count), None, 8, 0) == f"{count} code maps: 2 or more are needed"
    assert refused(Pairs, tagged(5), tagged(5, 7), 8, 0).startswith("pictures of 7 pixels hold no square of 8: ")
    assert refused(CodeBatches, maps(4), np.zeros(3), 2, 0) == "3 labels for 4 code maps: give one for each"


# ---- pictures and codes


def mirrored(batch: torch.Tensor) -> torch.Tensor:
    return batch[:, 1, 0, 0] == 0


def test_every_picture_comes_once_an_epoch():
    """An epoch holds every picture exactly once."""
    seen = torch.cat(list(Batches(numbered(50), 8, seed=3)(0)))
    assert sorted(seen[:, 0].amax((1, 2)).tolist()) == list(range(50))


def test_every_map_comes_once_an_epoch_with_its_label():
    """An epoch holds every map exactly once, as 32 bits and with its own label, or with none."""
    seen = list(DEALERS["codes"](50)(0))
    codes, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert sorted(codes[:, 0, 0].tolist()) == list(range(50))
    assert torch.equal(codes, (labels - 100)[:, None, None].expand(50, 2, 3))
    assert codes.dtype == labels.dtype == torch.int32
    assert {labels for _, labels in CodeBatches(maps(5), None, 2, 0)(0)} == {None}


def test_mirroring_is_left_to_right_half_the_time_and_drawn_anew():
    """About half of the pictures are mirrored, left to right and nothing else, and others in each epoch."""
    pictures = torch.randint(0, 256, (250, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    pictures[:, 0, :, 0], pictures[:, 0, :, -1] = torch.arange(250, dtype=torch.uint8)[:, None], 255
    batches, lots = Batches(pictures, 25, seed=0), []
    for epoch in range(8):
        seen = torch.cat(list(batches(epoch)))
        turned = seen[:, 0, 0, 0] == 255
        upright = torch.where(turned[:, None, None, None], seen.flip(-1), seen)
        numbers = upright[:, 0, 0, 0].long()
        assert torch.equal(upright, pictures[numbers])
        lots.append(tuple(turned[numbers.argsort()].tolist()))
    assert len(set(lots)) == 8
    # Four standard deviations.
    assert abs(np.mean(lots) - 0.5) < 4 * 0.5 / np.sqrt(8 * 250)


def test_mirroring_is_drawn_anew_at_each_step_of_each_epoch():
    """No two batches of a run have their places mirrored alike, and another seed mirrors others."""
    lots = [
        tuple(mirrored(batch).tolist())
        for seed in (0, 1)
        for epoch in range(3)
        for batch in Batches(numbered(250), 50, seed)(epoch)
    ]
    assert len(set(lots)) == len(lots) == 30


# ---- pairs


def places(squares: torch.Tensor) -> np.ndarray:
    """Number of the picture, top, left and whether it was mirrored, for squares of tagged pictures, (B, 4)."""
    left = squares[:, 1].amin((1, 2))
    found = [squares[:, 2, 0, 0], squares[:, 0, 0, 0], left, squares[:, 1, 0, 0] > left]
    return torch.stack([each.int() for each in found], 1).numpy()


def dealt(batches) -> list[np.ndarray]:
    """The places of both domains, in the order they were dealt, (visits, 4) each."""
    return [places(torch.cat(domain)) for domain in zip(*batches, strict=True)]


@pytest.mark.parametrize(("side_b", "batch_size"), [(12, 1), (12, 4), (9, 4), (8, 4)])
def test_squares_are_cut_anywhere_and_mirrored_or_not(side_b, batch_size):
    """Every square is a square of its picture, as it is or mirrored; all places come, all equally often."""
    pairs, seen = Pairs(tagged(40), tagged(30, side_b), 8, seed=0, batch_size=batch_size), [Counter(), Counter()]
    for epoch in range(50):
        for domain, counted, squares in zip((pairs.a, pairs.b), seen, zip(*pairs(epoch), strict=True), strict=True):
            squares = torch.cat(squares)
            assert squares.dtype == torch.uint8 and squares.shape == (40, 3, 8, 8)
            for square, (number, top, left, turned) in zip(squares, places(squares), strict=True):
                expected = domain[number, :, top : top + 8, left : left + 8]
                assert torch.equal(square, expected.flip(-1) if turned else expected)
                counted[top, left, turned] += 1
    for side, counted in zip((12, side_b), seen, strict=True):
        kinds = (side - 7) ** 2 * 2
        assert len(counted) == kinds
        expected = 50 * 40 / kinds
        chi_squared = sum((count - expected) ** 2 / expected for count in counted.values())
        # Four standard deviations.
        assert chi_squared < kinds - 1 + 4 * np.sqrt(2 * (kinds - 1))


def test_each_picture_has_a_place_of_its_own():
    """Neither the pictures of a pair nor neighbours in a batch are cut and mirrored alike, save by chance."""
    pairs = Pairs(tagged(40), tagged(40), 8, 0, batch_size=4)
    epochs = [dealt(pairs(epoch)) for epoch in range(10)]
    a, b = (np.stack([epoch[side] for epoch in epochs])[..., 1:].reshape(-1, 4, 3) for side in (0, 1))
    for one, other in ((a, b), (a[:, 1:], a[:, :-1]), (b[:, 1:], b[:, :-1]), (a[1:], a[:-1])):
        alike = (one == other).reshape(-1, 3)
        # 1 in 50 by chance.
        assert alike.all(1).mean() < 0.06
        assert (np.abs(alike.mean(0) - [1 / 5, 1 / 5, 1 / 2]) < 4 * 0.5 / np.sqrt(len(alike))).all()


def test_a_picture_is_cut_anew_at_each_visit():
    """A picture is not cut alike in the epochs of a run, nor at its visits within one epoch."""
    pairs, lots = Pairs(tagged(2), tagged(20), 8, seed=0), {}
    for epoch in range(4):
        for number, *where in dealt(pairs(epoch))[0].tolist():
            lots.setdefault((epoch, number), []).append(tuple(where))
    assert all(len(lot) == 10 and len(set(lot)) > 5 for lot in lots.values())
    assert len({tuple(lot) for lot in lots.values()}) == 8


@pytest.mark.parametrize(("count_a", "count_b"), [(25, 10), (10, 25), (10, 20), (2, 25)])
def test_a_is_walked_through_in_rounds(count_a, count_b):
    """No picture of a comes again before all of a have come, and each round has an order of its own."""
    seen = dealt(Pairs(tagged(count_a), tagged(count_b), 8, seed=3, batch_size=4)(0))[0][:, 0].tolist()
    assert len(seen) == max(count_a, count_b)
    rounds = [seen[first : first + count_a] for first in range(0, len(seen), count_a)]
    assert all(len(set(each)) == len(each) for each in rounds)
    assert all(len(each) == count_a for each in rounds[:-1])
    if count_a > 2:
        assert len({tuple(each) for each in rounds}) == len(rounds)


@pytest.mark.parametrize(("count_a", "count_b"), [(25, 10), (10, 25), (10, 10)])
def test_b_is_drawn_with_replacement_and_evenly(count_a, count_b):
    """Any picture of b may come at any visit, again too, and over many epochs all come equally often."""
    pairs = Pairs(tagged(count_a), tagged(count_b), 8, seed=3, batch_size=8)
    epochs = [dealt(pairs(epoch))[1][:, 0] for epoch in range(100)]
    assert sum(len(set(seen)) < min(len(seen), count_b) for seen in epochs) > 5
    counts = np.bincount(np.concatenate(epochs), minlength=count_b)
    expected = 100 * max(count_a, count_b) / count_b
    assert len(counts) == count_b and (abs(counts - expected) < 4.5 * np.sqrt(expected)).all()


def test_pairing_differs_from_epoch_to_epoch():
    """A picture of a meets other pictures of b in other epochs."""
    pairs = Pairs(tagged(30), tagged(30), 8, seed=0)
    met = [dict(np.stack(dealt(pairs(epoch)))[:, :, 0].T.tolist()) for epoch in range(2)]
    assert sum(met[0][number] == met[1][number] for number in range(30)) < 6


@pytest.mark.parametrize("batch_size", [2, 7])
def test_batch_size_does_not_change_the_order(batch_size):
    """In whatever batches, the same pictures meet in the same order."""
    one, other = (np.stack(dealt(Pairs(tagged(20), tagged(30), 8, 3, size)(2)))[:, :, 0] for size in (1, batch_size))
    assert np.array_equal(one, other)
