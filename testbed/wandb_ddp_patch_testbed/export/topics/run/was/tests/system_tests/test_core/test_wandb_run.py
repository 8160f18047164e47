def test_attach_same_process(user, test_settings):
    with pytest.raises(RuntimeError) as excinfo:
        with wandb.init(settings=test_settings()) as run:
            new_run = pickle.loads(pickle.dumps(run))
            new_run.log({"a": 2})
    assert "attach in the same process is not supported" in str(excinfo.value)
