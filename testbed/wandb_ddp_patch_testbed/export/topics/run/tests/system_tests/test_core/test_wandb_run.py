def test_attach_same_process(user, test_settings):
    with wandb.init(settings=test_settings()) as run:
        new_run = pickle.loads(pickle.dumps(run))
        new_run.log({"a": 2})
        assert new_run is run
